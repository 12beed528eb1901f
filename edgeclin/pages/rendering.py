"""Templates to pages."""

from __future__ import annotations

from importlib.resources import files

from edgeclin.errors import MissingExtra

try:
    import jinja2
except ImportError as exc:
    raise MissingExtra("Jinja2, which writes reports,", "convert,cloud") from exc

_FRAME = "page.html"


def render(package: str, template: str, **facts: object) -> str:
    """Fill a template that extends `page.html`, the frame of all pages; every fact is escaped.

    Args:
        package: the one that the template lies in.
    """
    texts = {
        _FRAME: files("edgeclin.pages").joinpath(_FRAME).read_text(),
        template: files(package).joinpath(template).read_text(),
    }
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(texts), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(facts)
