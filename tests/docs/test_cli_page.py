"""The page of the command line says what the parsers say."""

from __future__ import annotations

import pytest

import make_cli
from gradclip.cli import COMMANDS, command_line
from gradclip.cli.completion_command import commands_of
from gradclip.cli.help_text import GROUPS, exits_in


def test_the_page_is_up_to_date(capsys):
    assert make_cli.main(["--check"]) == 0, capsys.readouterr().out


def test_check_sees_a_changed_page(tmp_path, monkeypatch):
    page = tmp_path / "cli.md"
    monkeypatch.setattr(make_cli, "PAGE", page)
    assert make_cli.main(["--check"]) == 1
    assert make_cli.main([]) == 0
    page.write_text(page.read_text().replace("--steps N", "--steps M"))
    assert make_cli.main(["--check"]) == 1


def test_every_command_has_one_place_among_the_groups():
    assert [name for names in GROUPS.values() for name in names] == list(commands_of(command_line()))
    assert len(commands_of(command_line())) == len(COMMANDS)


@pytest.mark.parametrize("name", commands_of(command_line()))
def test_the_exit_codes_of_a_command_are_those_of_its_help(name):
    form = commands_of(command_line())[name]
    found = exits_in(form)
    assert {0, 2, 130} <= set(found)
    told = " ".join(form.format_help().split())
    assert all(" ".join(words.split()) in told for words in found.values())
