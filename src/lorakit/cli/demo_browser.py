"""lorakit demo --browser: the example app, served on this machine or written as a static site."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from pathlib import Path

from lorakit.cli.output import patience, say, size
from lorakit.cli.outputs import written
from lorakit.demo import site
from lorakit.demo.serving import SiteServer
from lorakit.files.atomic import spare_folder


def serve(port: int, own: Sequence[Path], *, show: bool) -> None:
    """Serve the app until Ctrl-C. own: folders of the user's that are served beside it. show: open
    it in the user's browser.
    """
    with spare_folder() as temporary:
        with patience("exporting the demo's models..."):
            files = site.site(temporary, own)
        with SiteServer(files, port) as server:
            say((server.address, "bold"), "  Ctrl-C ends it")
            if show:
                webbrowser.open(server.address)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                say()


def write(destination: Path, own: Sequence[Path], *, overwrite: bool) -> None:
    """Write the app, with folders of the user's, as a folder for any host of static files."""
    with (
        written(destination, "site", overwrite=overwrite) as place,
        spare_folder() as temporary,
    ):
        files = site.site(temporary, own)
        count = site.write(files, place)
    say(f"{destination}: {size(count)}, any host of static files serves it")
