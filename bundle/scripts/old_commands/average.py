from scripts.__main__ import replaced

replaced(__name__, "average")
