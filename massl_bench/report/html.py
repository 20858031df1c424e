"""Pages that are one file each: nothing is loaded from anywhere, and nothing that a name holds is ever markup.

Templates escape every text. A page carries a policy for browsers that allows its own script and style, by their hashes,
and no other; it may not open a connection, but for the page that is served, to its own server.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from massl_bench.core.printable import printable

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, *, live: bool = False, **values: Any) -> str:
    """Returns a page.

    Args:
        template: the name of a file in `templates/`.
        live: whether the page is served, and asks its server what is new.
        values: what it shows; texts are made safe to show and escaped.
    """
    style, scripts = asset("page.css"), [asset("page.js"), *([asset("live.js")] if live else [])]
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    own = f"style-src 'sha256-{_sha256(style)}'; script-src {hashes}" + ("; connect-src 'self'" if live else "")
    policy = f"default-src 'none'; img-src data:; {own}; base-uri 'none'; form-action 'none'"
    return _environment().get_template(template).render(style=style, scripts=scripts, policy=policy, **values)


def asset(name: str) -> str:
    """Returns the text of a file in `templates/`."""
    return (resources.files("massl_bench.report") / "templates" / name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup, escape

    def safe(value: Any) -> Any:
        return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    def wrapping(text: str) -> Markup:
        """Returns a text, escaped, with places where a line may end: names of files have no spaces."""
        return Markup(re.sub(r"([_/-])", r"\1<wbr>", str(escape(printable(text)))))  # nosec B704  # escaped

    environment = Environment(
        loader=FunctionLoader(asset),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=safe,
    )
    environment.filters["raw"] = Markup
    environment.filters["wrapping"] = wrapping
    return environment
