"""The head of the page that shows what a search found."""

HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark;
  --ink: #1f2430; --quiet: #626a7a; --paper: #fff; --box: #d4d7dd; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e4e7ee; --quiet: #a0a8b8; --paper: #15181e; --box: #3a3f4a; }}
}}
body {{ margin: 0 auto; max-width: 80rem; padding: 1rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.4rem; }}
h2 {{ font-size: 1.15rem; margin-top: 2.2rem; }}
h3 {{ font-size: 1rem; }}
p, small {{ color: var(--quiet); }}
ul {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: 1rem;
  padding: 0; list-style: none; }}
figure {{ margin: 0; }}
figcaption {{ font-size: .85rem; line-height: 1.3; margin-top: .3rem; }}
small {{ display: block; font-size: .8rem; font-variant-numeric: tabular-nums; }}
.frame {{ display: inline-block; position: relative; line-height: 0; max-width: 100%; }}
.frame img {{ display: block; max-width: 100%; height: auto; }}
.query img {{ outline: 3px solid var(--quiet); outline-offset: 2px; }}
.square {{ position: absolute; outline: 2px solid #fff; box-shadow: 0 0 0 4px #000; }}
.missing {{ display: flex; align-items: center; justify-content: center; box-sizing: border-box;
  aspect-ratio: 1; max-width: {side}px; padding: .5rem; background: var(--box); line-height: 1.3;
  text-align: center; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>Similarities are cosines between features; 1 is the highest.</p>
"""
"""HTML to be formatted with `title`, and `side`: the longer side of a picture in pixels."""
