"""The editor at a terminal, by prompt_toolkit: arrows, history, completion, pastes as one message.

Enter sends; Alt-Enter begins another line; Ctrl-C clears what is typed, and where nothing is it
interrupts; Ctrl-D ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.shortcuts import CompleteStyle

from lorakit.cli.chatting.history import HistoryFile
from lorakit.cli.chatting.lines import PROMPT, Complete
from lorakit.cli.output import note

# Asking a terminal where its cursor is makes room for menus, which there are none of here.
os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")


class TerminalLines:
    """Reads lines at a terminal."""

    def __init__(self, history: HistoryFile | None, complete: Complete) -> None:
        self._session: PromptSession[str] = PromptSession(
            [("bold", PROMPT)],
            history=_Remembered(history),
            completer=_Completer(complete),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            reserve_space_for_menu=0,
            multiline=True,  # Enter sends all the same, see _keys
            prompt_continuation=" " * len(PROMPT),
            key_bindings=_keys(),
            enable_open_in_editor=True,
        )

    def read(self, prefilled: str = "") -> str:
        return self._session.prompt(default=prefilled)


def _keys() -> KeyBindings:
    keys = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)

    @keys.add("enter", filter=typing)
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=typing)
    def begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c", filter=typing)
    def clear(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt, style="class:aborting")

    @keys.add(Keys.Vt100MouseEvent)
    def ignore(event: KeyPressEvent) -> None:
        """No mouse is asked for: it is the escape of a colour, in what was pasted."""

    return keys


class _Completer(Completer):
    def __init__(self, complete: Complete) -> None:
        self._complete = complete

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        for length, word in self._complete(document.text_before_cursor):
            yield Completion(word, start_position=-length)


class _Remembered(History):
    """What was typed: in this chat, and before it where a file keeps it."""

    def __init__(self, file: HistoryFile | None) -> None:
        super().__init__()
        self._file = file

    def load_history_strings(self) -> Iterable[str]:
        if self._file is None:
            return []
        try:
            return reversed(self._file.read())
        except OSError as error:
            self._lose(error)
            return []

    def store_string(self, string: str) -> None:
        if self._file is None:
            return
        try:
            self._file.add(string)
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        assert self._file is not None
        note(f"the history is not kept: {self._file.path}: {error.strerror or error}")
        self._file = None
