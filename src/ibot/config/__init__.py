"""Settings: typed dataclasses, their parser and the values derived from them."""
