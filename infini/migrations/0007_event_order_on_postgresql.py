"""Writers of events share a lock that readers take alone, on PostgreSQL; see infini/event_order.py."""

from django.db import migrations

LOCK = 4_915_217_003
TABLE = "infini_event"


def add_trigger(apps, schema_editor):
    if schema_editor.connection.vendor != "postgresql":
        return
    schema_editor.execute(
        "CREATE FUNCTION infini_event_order() RETURNS trigger LANGUAGE plpgsql AS $$ "
        f"BEGIN PERFORM pg_advisory_xact_lock_shared({LOCK}); RETURN NULL; END $$"
    )
    # For the statement, not for each row: it runs before the first row is given its number.
    schema_editor.execute(
        f"CREATE TRIGGER infini_event_order BEFORE INSERT ON {TABLE} "
        "FOR EACH STATEMENT EXECUTE FUNCTION infini_event_order()"
    )


def drop_trigger(apps, schema_editor):
    if schema_editor.connection.vendor != "postgresql":
        return
    schema_editor.execute(f"DROP TRIGGER infini_event_order ON {TABLE}")
    schema_editor.execute("DROP FUNCTION infini_event_order()")


class Migration(migrations.Migration):
    dependencies = [("infini", "0006_task_alert_kinds")]
    operations = [migrations.RunPython(add_trigger, drop_trigger)]
