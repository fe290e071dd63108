"""Writes the facts of the knowledge family, src/distillability/tasks/elements.json, from the data file of the package mendeleev.

    python -m pip install --no-deps mendeleev==1.3.0
    python scripts/make_elements.py

One element for every initial letter that has one: the lightest whose symbol has two letters, that has a stable isotope, whose five
properties are all known, and none of them equal to that of an element already taken. So the first letter of a symbol says which element
it is, and each property puts the elements in one order.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sqlite3
from pathlib import Path

TARGET = Path(__file__).parents[1] / "src" / "distillability" / "tasks" / "elements.json"
PROPERTIES = {
    "atomic_number": "atomic number",
    "density": "density, g/cm³",
    "melting_point": "melting point, K",
    "ionisation_energy": "first ionisation energy, eV",
    "abundance": "abundance in the crust of the earth, mg/kg",
}
QUERY = """
    select e.symbol, e.name, e.atomic_number, e.density, p.melting_point, i.ionization_energy, e.abundance_crust
    from elements e
    join ionizationenergies i on i.atomic_number = e.atomic_number and i.ion_charge = 0
    join phasetransitions p on p.atomic_number = e.atomic_number
    where length(e.symbol) = 2 and not e.is_radioactive
      and (select count(*) from phasetransitions q where q.atomic_number = e.atomic_number) = 1
    order by e.atomic_number
"""


def main() -> None:
    spec = importlib.util.find_spec("mendeleev")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("install mendeleev first, as the first lines of this file say")
    database = Path(spec.submodule_search_locations[0]) / "elements.db"
    taken: dict[str, dict[str, object]] = {}
    for symbol, name, *values in sqlite3.connect(database).execute(QUERY):
        if symbol[0] in taken or None in values:
            continue
        rounded = [float(f"{value:.6g}") if isinstance(value, float) else value for value in values]
        element = {"symbol": symbol, "name": name, **dict(zip(PROPERTIES, rounded, strict=True))}
        if all(element[key] != other[key] for other in taken.values() for key in PROPERTIES):
            taken[symbol[0]] = element
    content = {
        "origin": f"mendeleev {importlib.metadata.version('mendeleev')}, made by scripts/make_elements.py",
        "licence": "MIT, Copyright (c) 2015 Lukasz Mentel; elements.LICENSE.txt",
        "properties": PROPERTIES,
        "elements": [taken[initial] for initial in sorted(taken)],
    }
    TARGET.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(taken)} elements: {TARGET}")


if __name__ == "__main__":
    main()
