"""What is proposed for the columns of tables, some of which no process survives."""

import os
from pathlib import Path
from typing import Any

import pytest

from fedmed.errors import ConfigError
from fedmed_site.deidentification_columns import propose_columns
from fedmed_site.deidentification_policy import load_choices


class Deadly:
    """A table that ends the process that it is handed to, as a damaged Parquet file does."""

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        """Say how it is unpickled: by an end."""
        return os._exit, (1,)


def test_a_table_that_ends_its_process_ends_no_run(tmp_path: Path):
    """It counts as one that could not be read, and the other tables have their proposals."""
    (tmp_path / "t.csv").write_text("pulse,备注\n70,头晕\n71,头痛\n", encoding="utf-8")
    decisions, unread = propose_columns([Deadly(), tmp_path / "t.csv"])  # type: ignore[list-item]
    assert [decision.name for decision in decisions] == ["pulse", "备注"]
    assert unread == 1


def test_a_policy_nested_too_deep_is_one_line(tmp_path: Path):
    """Five thousand brackets are no YAML that anybody wrote."""
    (tmp_path / "p.yaml").write_text("a: " + "[" * 5_000 + "]" * 5_000)
    with pytest.raises(ConfigError, match="expected YAML"):
        load_choices(str(tmp_path / "p.yaml"))
