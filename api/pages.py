"""`/openapi.json` and `/docs`, the interactive page, served from installed packages so that it works offline."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from importlib.util import find_spec
from pathlib import Path

from flask import Flask, Response, abort, redirect
from markupsafe import escape
from werkzeug.wrappers import Response as BaseResponse

from api.openapi import build_openapi
from api.problems import codes
from api.responses import answer
from api.services import services

#: file of the page → its path in the package and its media type
ASSETS = {
    "swagger-ui.css": ("css/swagger-ui.css", "text/css"),
    "swagger-ui-bundle.js": ("js/swagger-ui-bundle.js", "text/javascript"),
}

SCRIPT = """
      window.ui = SwaggerUIBundle({
        url: "/openapi.json", dom_id: "#page", deepLinking: true, persistAuthorization: false,
        displayRequestDuration: true, validatorUrl: null,
      });
    """

PAGE = f"""\
<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Job platform API</title>
    <link rel="stylesheet" href="/docs/assets/swagger-ui.css">
    <link rel="icon" href="data:,">
  </head>
  <body>
    <div id="page"></div>
    <script src="/docs/assets/swagger-ui-bundle.js"></script>
    <script>{SCRIPT}</script>
  </body>
</html>
"""


#: only the page's own files, its one script, and styles and pictures that Swagger UI generates
POLICY = "; ".join(
    (
        "default-src 'none'",
        f"script-src 'self' 'sha256-{b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


#: browsers must not guess the type of an answer
NO_SNIFFING = ("x-content-type-options", "nosniff")


def harden(response: Response) -> Response:
    """Add security headers: no sniffing of types, no framing, no referrer."""
    response.headers.set(*NO_SNIFFING)
    if response.mimetype == "text/html":
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["Referrer-Policy"] = "no-referrer"
    return response


def errors_page() -> str:
    """Return the page that the `type` of every problem links to: all codes and their meaning."""
    rows = "".join(
        f'<tr id="{code}"><td><code>{code}</code></td><td>{status}</td><td>{escape(meaning)}</td></tr>'
        for code, status, meaning in codes()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Errors of the job platform</title>'
        "<style>body{font-family:sans-serif;margin:2rem;max-width:60rem}td,th{text-align:left;padding:.4rem 1rem}"
        "tr:target{background:#fff3bf}</style></head><body><h1>Errors</h1><table>"
        f"<tr><th>code</th><th>status</th><th>meaning</th></tr>{rows}</table></body></html>"
    )


def register(app: Flask) -> None:
    """Add the pages and security headers."""
    app.after_request(harden)
    spec = find_spec("flask_openapi3_swagger")  # located, not imported: only its files are needed
    assert spec is not None and spec.origin is not None
    assets = Path(spec.origin).parent / "templates" / "swagger"

    @app.get("/", endpoint="home")
    def home() -> BaseResponse:
        return redirect("/docs")

    @app.get("/openapi.json", endpoint="openapi_json")
    def openapi_json() -> Response:
        return answer(build_openapi(services().kinds))

    @app.get("/docs", endpoint="docs_page")
    def docs_page() -> Response:
        return Response(PAGE, mimetype="text/html")

    @app.get("/docs/errors", endpoint="docs_errors")
    def docs_errors() -> Response:
        return Response(errors_page(), mimetype="text/html")

    @app.get("/docs/assets/<name>", endpoint="docs_asset")
    def docs_asset(name: str) -> Response:
        if name not in ASSETS:
            abort(404)
        path, kind = ASSETS[name]
        body = (assets / path).read_bytes()
        return Response(body, mimetype=kind, headers={"Cache-Control": "public, max-age=86400"})
