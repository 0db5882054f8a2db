"""Hazards that the text of a script shows, read from its parse tree; how bad they are, the measurement says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from pglast import ast, enums

from comporta.dryrun.hazard import Hazard, Look, bare, found, named
from comporta.postgres.script import Statement

# Below this, a lock_timeout cancels CONCURRENTLY while it waits for old snapshots, and leaves an invalid index.
_SHORT_FOR_CONCURRENTLY_MS: Final = 60_000


def read_script(look: Look) -> Iterator[Hazard]:
    """Findings from the parse tree; what a statement makes is remembered for those after it."""
    for statement in look.script.statements:
        _note_settings(look, statement)
        rule = _RULES.get(statement.kind)
        if rule is not None:
            yield from rule(look, statement)
        yield from _concurrently(look, statement)
        look.made |= set(_made_by(statement))


def _note_settings(look: Look, statement: Statement) -> None:
    control = statement.transaction_control
    if control:
        look.in_transaction = control == "begin"
    node: Any = statement.node
    if statement.kind == "VariableSetStmt" and str(node.name or "").lower() == "lock_timeout":
        look.lock_timeout_ms = _milliseconds(node.args[0]) if node.args else 0
    ran = look.measured(statement)
    if ran is not None and ran.transaction != "none" and statement.kind != "VariableSetStmt":
        look.lock_timeout_ms = ran.lock_timeout_ms


def _milliseconds(constant: Any) -> int:
    """A setting's value in milliseconds; 0 when it cannot be read."""
    value = constant.val
    number = getattr(value, "ival", None)
    if number is not None:
        return int(number)
    text = str(getattr(value, "sval", "0")).strip().lower()
    digits = "".join(letter for letter in text if letter.isdigit() or letter == ".")
    unit = text.removeprefix(digits).strip()
    factor = {"": 1, "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}.get(unit, 1)
    return int(float(digits) * factor) if digits else 0


def _made_by(statement: Statement) -> Iterator[str]:
    """Bare names of relations, and ``schema.`` of schemas, that the statement makes."""
    node: Any = statement.node
    match statement.kind:
        case "CreateStmt":
            if not node.if_not_exists:
                yield node.relation.relname
        case "CreateTableAsStmt":
            yield node.into.rel.relname
        case "ViewStmt":
            if not node.replace:
                yield node.view.relname
        case "IndexStmt":
            if node.idxname:
                yield node.idxname
        case "CreateSchemaStmt":
            yield f"{node.schemaname}."


def _concurrently(look: Look, statement: Statement) -> Iterator[Hazard]:
    """Hazards 3 and 6: CONCURRENTLY needs a long lock budget and no transaction around it."""
    node: Any = statement.node
    concurrent = statement.needs_autocommit and statement.kind in (
        "IndexStmt",
        "DropStmt",
        "ReindexStmt",
        "AlterTableStmt",
    )
    if not concurrent:
        return
    thing = str(getattr(node, "idxname", None) or statement.headline)
    if look.in_transaction:
        yield found(
            "H06",
            "stop",
            thing,
            statement,
            "PostgreSQL refuses it inside BEGIN .. COMMIT",
            "Move it out of the transaction.",
        )
    ran = look.measured(statement)
    limit = ran.lock_timeout_ms if ran and ran.lock_timeout_ms else look.lock_timeout_ms
    if 0 < limit < _SHORT_FOR_CONCURRENTLY_MS:
        yield found(
            "H03",
            "stop",
            thing,
            statement,
            f"lock_timeout is {limit} ms here; it also limits the wait for old snapshots, behind any open transaction",
            "Give CONCURRENTLY its own long budget (set lock_timeout = 0 before it) and drop an invalid leftover first.",
        )


def _index(look: Look, statement: Statement) -> Iterator[Hazard]:
    node: Any = statement.node
    if not look.in_use(statement, node.relation):
        return
    if not node.concurrent:
        severity, evidence = look.severity(statement, "stop")
        yield found(
            "H05",
            severity,
            named(node.relation),
            statement,
            f"CREATE INDEX blocks every write: {evidence}",
            "CREATE INDEX CONCURRENTLY, outside a transaction, without a short lock_timeout.",
        )
    elif node.if_not_exists and look.run and any(bare(i) == node.idxname for i in look.run.before.invalid_indexes):
        yield found(
            "H04",
            "stop",
            str(node.idxname),
            statement,
            "an invalid index of that name exists: IF NOT EXISTS hides it",
            "DROP INDEX CONCURRENTLY the invalid index first.",
        )


def _reindex(look: Look, statement: Statement) -> Iterator[Hazard]:
    node: Any = statement.node
    if not statement.needs_autocommit and node.relation is not None and str(node.relation.relname) not in look.made:
        severity, evidence = look.severity(statement, "stop")
        yield found(
            "H05",
            severity,
            named(node.relation),
            statement,
            f"REINDEX blocks writes and index reads: {evidence}",
            "REINDEX .. CONCURRENTLY.",
        )


def _refresh(look: Look, statement: Statement) -> Iterator[Hazard]:
    node: Any = statement.node
    if not node.concurrent and look.in_use(statement, node.relation):
        severity, evidence = look.severity(statement, "stop")
        yield found(
            "H05",
            severity,
            named(node.relation),
            statement,
            f"REFRESH blocks every read of the view: {evidence}",
            "REFRESH MATERIALIZED VIEW CONCURRENTLY (needs a unique index).",
        )


def _drop(look: Look, statement: Statement) -> Iterator[Hazard]:
    node: Any = statement.node
    rollback = look.run is not None and look.run.role == "rollback"
    if rollback and node.behavior == enums.DropBehavior.DROP_CASCADE:
        yield found(
            "H28",
            "warn",
            statement.headline,
            statement,
            "CASCADE removes whatever came to depend on it since",
            "Name each object that the change added, and let anything else stop the rollback.",
        )
    for parts in node.objects:
        relation = _range_var(parts)
        if node.removeType == enums.ObjectType.OBJECT_INDEX and not node.concurrent:
            if relation is not None and look.in_use(statement, relation):
                severity, evidence = look.severity(statement, "warn")
                yield found(
                    "H05",
                    severity,
                    named(relation),
                    statement,
                    f"DROP INDEX locks its table: {evidence}",
                    "DROP INDEX CONCURRENTLY, or inside comporta.with_lock.",
                )
        elif node.removeType in _TABLE_LIKE and not rollback and look.in_use(statement, relation):
            yield found(
                "H25",
                "stop",
                named(relation),
                statement,
                "applications that run now use this name",
                "Expand and contract: take it away in a later release, when nothing reads it.",
            )


_TABLE_LIKE: Final = frozenset(
    {enums.ObjectType.OBJECT_TABLE, enums.ObjectType.OBJECT_VIEW, enums.ObjectType.OBJECT_MATVIEW}
)


def _range_var(parts: Any) -> ast.RangeVar | None:
    names = [part.sval for part in parts] if isinstance(parts, tuple) else []
    if not names:
        return None
    return ast.RangeVar(relname=names[-1], schemaname=names[-2] if len(names) > 1 else None)


def _rename(look: Look, statement: Statement) -> Iterator[Hazard]:
    node: Any = statement.node
    if node.renameType in (enums.ObjectType.OBJECT_INDEX, enums.ObjectType.OBJECT_TABCONSTRAINT):
        return
    if node.relation is not None and look.in_use(statement, node.relation):
        yield found(
            "H25",
            "stop",
            named(node.relation),
            statement,
            "applications that run now use the old name",
            "Keep both names (a view under the old one) until nothing uses it.",
        )


def _truncate(look: Look, statement: Statement) -> Iterator[Hazard]:
    node: Any = statement.node
    for relation in node.relations:
        if look.in_use(statement, relation):
            yield found(
                "H25",
                "stop",
                named(relation),
                statement,
                "TRUNCATE removes every row at once",
                "Delete in bounded batches, or move the table aside and keep it for the rollback.",
            )


def _alter_table(look: Look, statement: Statement) -> Iterator[Hazard]:
    node: Any = statement.node
    if not look.in_use(statement, node.relation):
        return
    for command in node.cmds or ():
        rule = _ALTERATIONS.get(command.subtype)
        if rule is not None:
            yield from rule(look, statement, command)


def _add_column(look: Look, statement: Statement, command: Any) -> Iterator[Hazard]:
    node: Any = statement.node
    thing = f"{named(node.relation)}.{command.def_.colname}"
    yield found(
        "H17",
        "note",
        thing,
        statement,
        "a prepared 'select *' fails once with 'cached plan must not change result type'",
        "Name columns in queries, or let clients retry once.",
    )
    for constraint in command.def_.constraints or ():
        if look.measured(statement) is None and constraint.contype == enums.ConstrType.CONSTR_GENERATED:
            yield found(
                "H07",
                "stop",
                thing,
                statement,
                "a stored generated column writes every row again",
                "Add a plain column, fill it in batches, keep it by trigger.",
            )


def _drop_column(_look: Look, statement: Statement, command: Any) -> Iterator[Hazard]:
    node: Any = statement.node
    yield found(
        "H25",
        "stop",
        f"{named(node.relation)}.{command.name}",
        statement,
        "applications that run now use this column",
        "Stop reading it first, drop it in a later release.",
    )


def _column_type(look: Look, statement: Statement, command: Any) -> Iterator[Hazard]:
    node: Any = statement.node
    thing = f"{named(node.relation)}.{command.name}"
    yield found(
        "H17",
        "warn",
        thing,
        statement,
        "prepared statements that return this column fail until prepared again",
        "New column, filled in batches, then switched.",
    )
    if look.measured(statement) is None:
        yield found(
            "H07",
            "stop",
            thing,
            statement,
            "a new type, typmod or SRID usually writes every row again",
            "New column, filled in batches, then switched.",
        )


def _add_constraint(look: Look, statement: Statement, command: Any) -> Iterator[Hazard]:
    node: Any = statement.node
    constraint = command.def_
    kinds = enums.ConstrType
    scans = {
        kinds.CONSTR_CHECK: "CHECK",
        kinds.CONSTR_FOREIGN: "FOREIGN KEY",
        kinds.CONSTR_UNIQUE: "UNIQUE",
        kinds.CONSTR_PRIMARY: "PRIMARY KEY",
        kinds.CONSTR_EXCLUSION: "EXCLUDE",
    }.get(constraint.contype)
    if scans is None or constraint.skip_validation or constraint.indexname:
        return
    severity, evidence = look.severity(statement, "stop")
    yield found(
        "H08",
        severity,
        named(node.relation),
        statement,
        f"{scans} reads every row under the lock: {evidence}",
        "CHECK and FOREIGN KEY: NOT VALID, then VALIDATE CONSTRAINT. UNIQUE: CREATE UNIQUE INDEX CONCURRENTLY, "
        "then ADD CONSTRAINT .. USING INDEX.",
    )


def _set_not_null(look: Look, statement: Statement, command: Any) -> Iterator[Hazard]:
    node: Any = statement.node
    severity, evidence = look.severity(statement, "warn")
    yield found(
        "H08",
        severity,
        f"{named(node.relation)}.{command.name}",
        statement,
        f"SET NOT NULL reads every row: {evidence}",
        "CHECK (.. is not null) NOT VALID, VALIDATE, then SET NOT NULL (it then trusts the check).",
    )


def _attach(look: Look, statement: Statement, command: Any) -> Iterator[Hazard]:
    severity, evidence = look.severity(statement, "warn")
    if severity != "note":
        yield found(
            "H19",
            severity,
            named(command.def_.name),
            statement,
            f"ATTACH scans under the lock: {evidence}",
            "Give the partition, and the DEFAULT partition, a validated CHECK that answers for the bound.",
        )


def _detach(look: Look, statement: Statement, command: Any) -> Iterator[Hazard]:
    if command.def_.concurrent:
        return
    severity, evidence = look.severity(statement, "warn")
    yield found(
        "H19",
        severity,
        named(command.def_.name),
        statement,
        f"DETACH locks the whole partitioned table: {evidence}",
        "DETACH PARTITION .. CONCURRENTLY where no DEFAULT partition exists; else comporta.with_lock.",
    )


def _rewriting(look: Look, statement: Statement, _command: Any) -> Iterator[Hazard]:
    node: Any = statement.node
    if look.measured(statement) is None:
        yield found(
            "H07",
            "stop",
            named(node.relation),
            statement,
            "writes the whole table again under ACCESS EXCLUSIVE",
            "Build a copy aside in batches and swap it in.",
        )


_AT: Final = enums.AlterTableType
_ALTERATIONS: Final = {
    _AT.AT_AddColumn: _add_column,
    _AT.AT_DropColumn: _drop_column,
    _AT.AT_AlterColumnType: _column_type,
    _AT.AT_AddConstraint: _add_constraint,
    _AT.AT_SetNotNull: _set_not_null,
    _AT.AT_AttachPartition: _attach,
    _AT.AT_DetachPartition: _detach,
    _AT.AT_SetTableSpace: _rewriting,
    _AT.AT_SetLogged: _rewriting,
    _AT.AT_SetUnLogged: _rewriting,
    _AT.AT_SetAccessMethod: _rewriting,
}


def _bulk_write(look: Look, statement: Statement) -> Iterator[Hazard]:
    """Hazard 9 by reading; with a measurement the rows are counted instead."""
    node: Any = statement.node
    if look.measured(statement) is None and not node.whereClause and look.in_use(statement, node.relation):
        yield found(
            "H09",
            "warn",
            named(node.relation),
            statement,
            "writes every row in one transaction",
            "Batches that commit, by key, a few thousand rows each.",
        )


def _vacuum(look: Look, statement: Statement) -> Iterator[Hazard]:
    node: Any = statement.node
    if any(option.defname == "full" for option in node.options or ()) and look.measured(statement) is None:
        yield found(
            "H07",
            "stop",
            statement.headline,
            statement,
            "VACUUM FULL writes the table again under ACCESS EXCLUSIVE",
            "Plain VACUUM, or a copy aside and a swap.",
        )


def _enum(_look: Look, statement: Statement) -> Iterator[Hazard]:
    node: Any = statement.node
    if node.newVal and not node.oldVal:
        yield found(
            "H29",
            "warn",
            str(node.newVal),
            statement,
            "an enum value can be added but never removed",
            "A look-up table with a foreign key, or a text column with a CHECK.",
        )


def _extension(_look: Look, statement: Statement) -> Iterator[Hazard]:
    node: Any = statement.node
    yield found(
        "H29",
        "warn",
        str(node.extname),
        statement,
        "an extension goes to a newer version and never back",
        "Rehearse it on a clone with the exact version, and roll back by restoring.",
    )


def _domain(_look: Look, statement: Statement) -> Iterator[Hazard]:
    node: Any = statement.node
    if node.subtype == "C":
        yield found(
            "H29",
            "warn",
            statement.headline,
            statement,
            "a domain constraint is checked in every column of the domain, under its lock",
            "ADD CONSTRAINT .. NOT VALID, then VALIDATE CONSTRAINT.",
        )


def _create_table(_look: Look, statement: Statement) -> Iterator[Hazard]:
    node: Any = statement.node
    for column in node.tableElts or ():
        if not isinstance(column, ast.ColumnDef) or column.typeName is None:
            continue
        kind = (column.typeName.names or [ast.String(sval="")])[-1].sval
        keyed = any(
            c.contype in (enums.ConstrType.CONSTR_PRIMARY, enums.ConstrType.CONSTR_IDENTITY)
            for c in column.constraints or ()
        )
        if kind in ("serial", "serial4") or (kind == "int4" and keyed):
            yield found(
                "H29",
                "note",
                f"{named(node.relation)}.{column.colname}",
                statement,
                "an int4 key ends at 2,147,483,647",
                "Use bigint.",
            )


def _function(_look: Look, statement: Statement) -> Iterator[Hazard]:
    node: Any = statement.node
    options = {option.defname: option.arg for option in node.options or ()}
    if "security" not in options or not bool(getattr(options["security"], "boolval", False)):
        return
    settings = [o.arg.name for o in node.options if o.defname == "set" and getattr(o.arg, "name", None)]
    if "search_path" not in settings:
        yield found(
            "H30",
            "warn",
            ".".join(part.sval for part in node.funcname),
            statement,
            "SECURITY DEFINER without its own search_path: a caller can put an object of theirs in front",
            "SET search_path = pg_catalog, and qualify every name.",
        )


def _view(_look: Look, statement: Statement) -> Iterator[Hazard]:
    node: Any = statement.node
    invoker = any(option.defname == "security_invoker" for option in node.options or ())
    if not invoker and str(node.view.schemaname or "") != "comporta":
        yield found(
            "H30",
            "note",
            named(node.view),
            statement,
            "the view reads with its owner's rights, past row level security",
            "WITH (security_invoker = true), or say in a comment why not.",
        )


_RULES: Final = {
    "IndexStmt": _index,
    "ReindexStmt": _reindex,
    "RefreshMatViewStmt": _refresh,
    "DropStmt": _drop,
    "RenameStmt": _rename,
    "TruncateStmt": _truncate,
    "AlterTableStmt": _alter_table,
    "UpdateStmt": _bulk_write,
    "DeleteStmt": _bulk_write,
    "VacuumStmt": _vacuum,
    "AlterEnumStmt": _enum,
    "AlterExtensionStmt": _extension,
    "AlterDomainStmt": _domain,
    "CreateStmt": _create_table,
    "CreateFunctionStmt": _function,
    "ViewStmt": _view,
}
