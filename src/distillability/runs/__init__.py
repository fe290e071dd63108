"""A run and its folder: paths, jobs, processes, manifest, costs, and what each job is given."""
