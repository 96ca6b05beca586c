"""BibTeX of the methods, read from the docstrings of their files, which name authors, title, venue and year."""

import importlib
import inspect
import re

import models

CITED = re.compile(
    r"(?P<authors>[A-Z][\w'-]+(?: [A-Z][\w'-]+)?(?:(?:,| and|, and) [A-Z][\w'-]+)*(?: et al\.)?)"
    r'(?: (?P<before>\d{4}))?,? "(?P<title>[^"]+)",? ?(?P<rest>.{0,110})'
)
DATED = re.compile(r"(?P<venue>[^\"]*?),? ?(?P<year>(?:19|20)\d\d)\b")


def bibtex(name: str) -> str | None:
    """The entry of one method, its key the method's name; None where its file names no publication (a mean fill)."""
    text = inspect.getdoc(importlib.import_module(models.class_of(name).__module__)) or ""
    match = CITED.search(" ".join(text.split()) + " ")
    if match is None:
        return None
    dated = DATED.match(match["rest"])
    year = match["before"] or (dated and dated["year"])
    if not year:
        return None
    authors = re.sub(r",? and ", ", ", match["authors"].removesuffix(" et al."))
    written = " and ".join(authors.split(", ")) + (" and others" if match["authors"].endswith("et al.") else "")
    fields = {"author": written, "title": f"{{{match['title']}}}", "year": year}
    if not match["before"] and dated and (venue := dated["venue"].strip(" ,(")):
        fields["booktitle"] = venue
    lines = [f"  {key} = {{{value}}}," for key, value in fields.items()]
    return "\n".join([f"@inproceedings{{{name},", *lines, "}"])


def bibliography(names: list[str]) -> str:
    """The entries of some methods, in their order."""
    return "\n\n".join(entry for name in names if (entry := bibtex(name))) + "\n"
