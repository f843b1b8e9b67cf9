"""Draws what `python -m ferroloop top` shows: `make picture`.

    python docs/site/picture.py SVG

Runs a small server with clients, and `top` in a terminal of 80 columns that tmux provides.
"""

import os
import subprocess
import sys
import tempfile
import time
from html import escape
from pathlib import Path

from ferroloop._screen import BARS

COLUMNS, LINES = 80, 24
SECONDS = 6.0
#: the size of a character, and what surrounds the text
ACROSS, DOWN, MARGIN, BAR = 8.4, 18, 14, 30
FONT = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
BACKGROUND, TITLE, TEXT, BARS_COLOUR = "#1f2430", "#171b24", "#e6e6e6", "#f0883e"

PROGRAM = """
import asyncio, random, sys, time
import ferroloop


def digest(size):
    return sum(range(size))


async def handle(reader, writer):
    while request := await reader.readline():
        if request == b"report\\n":
            await asyncio.to_thread(digest, 20_000)
        writer.write(request * 40)
        await writer.drain()
    writer.close()


async def client(address):
    reader, writer = await asyncio.open_connection(*address)
    while True:
        request = random.choice([b"page\\n", b"page\\n", b"report\\n"])
        writer.write(request)
        await reader.readexactly(40 * len(request))
        await asyncio.sleep(random.expovariate(10))


async def refresh_cache():
    while True:
        await asyncio.sleep(0.5)
        digest(random.randrange(20_000, 1_000_000))


async def main():
    with ferroloop.serve_introspection(sys.argv[1]):
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        async with asyncio.TaskGroup() as group:
            group.create_task(refresh_cache())
            for _ in range(60):
                group.create_task(client(address))


ferroloop.run(main())
"""


def screen(directory: Path) -> list[str]:
    """The lines that `top` shows after some seconds."""
    served = directory / "socket"
    (directory / "server.py").write_text(PROGRAM)
    server = subprocess.Popen([sys.executable, "server.py", served], cwd=directory)
    tmux = ["tmux", "-S", str(directory / "tmux"), "-f", os.devnull]
    top = [sys.executable, "-m", "ferroloop", "top", str(served)]
    try:
        while not served.exists():
            time.sleep(0.05)
        size = ["-x", str(COLUMNS), "-y", str(LINES)]
        # Without the line of tmux itself.
        start = ["new-session", "-d", *size, *top, ";", "set", "status", "off"]
        subprocess.run([*tmux, *start], check=True)
        time.sleep(SECONDS)
        shown = subprocess.run(
            [*tmux, "capture-pane", "-p"], check=True, capture_output=True, text=True
        ).stdout
        subprocess.run([*tmux, "kill-server"], check=True)
    finally:
        server.kill()
        server.wait()
    return shown.rstrip().splitlines()


def _text(x: float, y: float, content: str, colour: str) -> str:
    # Fonts differ in width: the columns must not.
    return (
        f'<text x="{x:.1f}" y="{y}" textLength="{ACROSS * len(content):.1f}" '
        f'lengthAdjust="spacingAndGlyphs" fill="{colour}">{escape(content)}</text>'
    )


def _line(line: str, top: float) -> list[str]:
    """Words where they are in the terminal, and bars, which not every font has, as rectangles."""
    shapes = []
    for column, character in enumerate(line):
        if character in BARS:
            height = DOWN * 0.9 * (BARS.index(character) + 1) / len(BARS)
            shapes.append(
                f'<rect x="{MARGIN + column * ACROSS:.1f}" y="{top + DOWN - height:.1f}" '
                f'width="{ACROSS - 0.6:.1f}" height="{height:.1f}" fill="{BARS_COLOUR}"/>'
            )
    column = 0
    for word in line.split(" "):
        if word and word[0] not in BARS:
            shapes.append(_text(MARGIN + column * ACROSS, top + 14, word, TEXT))
        column += len(word) + 1
    return shapes


def draw(lines: list[str], title: str) -> str:
    """A window with the lines."""
    width = 2 * MARGIN + COLUMNS * ACROSS
    height = BAR + 2 * MARGIN + len(lines) * DOWN
    shapes = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" '
        f'width="{width:.0f}" height="{height}" font-family="{FONT}" font-size="14">',
        f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>',
        f'<path d="M0 {BAR}V8Q0 0 8 0H{width - 8:.0f}Q{width:.0f} 0 {width:.0f} 8V{BAR}Z" '
        f'fill="{TITLE}"/>',
        _text(MARGIN, 20, title, "#9aa4b2"),
    ]
    for number, line in enumerate(lines):
        shapes += _line(line, BAR + MARGIN + number * DOWN)
    return "\n".join([*shapes, "</svg>", ""])


def main() -> None:
    """Entry point."""
    with tempfile.TemporaryDirectory() as directory:
        lines = screen(Path(directory))
    Path(sys.argv[1]).write_text(draw(lines, "python -m ferroloop top PID"))


if __name__ == "__main__":
    main()
