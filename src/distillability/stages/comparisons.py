"""Derived numbers: how far the knob moved students, beside what cheap tricks do, and what it left of the teacher.

Definitions are in docs/concepts.md; the statistics are `evaluation.measures`'.
"""
