"""`make up`, `make down`, `make status`."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from jobplatform.devstack.instance import CHECKOUT, Instance, chosen_name, open_instance, taken
from jobplatform.devstack.postgres import is_running
from jobplatform.devstack.processes import marked
from jobplatform.devstack.stack import ENV_SERVERS, ENV_STACK, Stack

STACK = chosen_name("dev")
ENV_FILE = CHECKOUT / ".local" / ("env" if STACK == "dev" else f"env-{STACK}")

SHARED = ("JOBPLATFORM_ARTIFACT", "JOBPLATFORM_MEDIA", "JOBPLATFORM_SMTP", "JOBPLATFORM_LLM")

#: processes of a stack, in display order
PROCESSES = (
    "api",
    "dispatcher",
    "worker-email",
    "worker-video",
    "worker-llm",
    "worker-webhooks",
    "flower",
    "mail",
    "model",
    "rabbitmq",
)


def up() -> None:
    """Start the stack, write `.local/env`, and leave it running; only show a stack that already runs."""
    console = Console()
    with taken(STACK):
        instance = open_instance(STACK)
        stack = Stack(instance, echo=lambda line: console.print(f"[dim]{line}[/]"))
        if not _is_up(instance, stack):
            try:
                stack.start_servers()
                stack.start_platform()
                _write_env(stack, stack.create_api_key())
            except BaseException:
                stack.stop()
                raise
        _show(console, stack)
    console.print(f"\nsettings for your scripts: [bold]. {_shown(ENV_FILE)}[/]      stop: [bold]make down[/]")


def down(*, delete_data: bool = False) -> None:
    """Stop the stack; its data is kept for the next `up`, unless `delete_data`."""
    with taken(STACK):
        stack = Stack(open_instance(STACK), echo=lambda _: None)
        running = marked(stack.instance)
        killed = stack.stop(gently=not delete_data)
        if delete_data:
            stack.forget()
    ENV_FILE.unlink(missing_ok=True)
    Console().print("stopped" if running else "nothing was running")
    if killed and not delete_data:
        Console().print(f"had to be killed: {', '.join(killed)}")


def status() -> None:
    """Show the running processes and their addresses."""
    console = Console()
    _show(console, Stack(open_instance(STACK), echo=lambda _: None))


def _is_up(instance: Instance, stack: Stack) -> bool:
    names = set(marked(instance).values())
    wanted = set(PROCESSES) - (set() if stack.own_broker else {"rabbitmq"})
    return wanted <= names and ENV_FILE.exists() and (not stack.own_database or is_running(instance))


def _write_env(stack: Stack, key: str) -> None:
    """Write the file that scripts can `source`."""
    values = {
        "JOBPLATFORM_URL": stack.local_url("api"),
        "JOBPLATFORM_API_KEY": key,
        "JOBPLATFORM_DATABASE_URL": stack.database_url.replace("+psycopg2", ""),
        **({"JOBPLATFORM_REPORTING_URL": stack.reporting_url} if stack.own_database else {}),
        "JOBPLATFORM_BROKER_URL": stack.broker_url,
        "JOBPLATFORM_MANAGEMENT_URL": stack.management_url,
        "JOBPLATFORM_FLOWER_URL": stack.flower_url,
        "JOBPLATFORM_MAIL_URL": stack.local_url("mail"),
        # settings for a worker of your own
        **{name: value for name, value in stack.settings_environment().items() if name.startswith(SHARED)},
        ENV_STACK: str(stack.instance.folder),
    }
    own = ("JOBPLATFORM_DATABASE_URL",) * stack.own_database + ("JOBPLATFORM_BROKER_URL",) * stack.own_broker
    values[ENV_SERVERS] = " ".join(values[name] for name in own)
    ENV_FILE.parent.mkdir(exist_ok=True)
    ENV_FILE.touch(mode=0o600)
    ENV_FILE.chmod(0o600)  # an existing file may have been readable by others
    ENV_FILE.write_text("".join(f"export {name}='{value}'\n" for name, value in values.items()))


def _show(console: Console, stack: Stack) -> None:
    names = set(marked(stack.instance).values())
    addresses = {
        "api": f"{stack.local_url('api')}    page: {stack.local_url('api', '/docs')}",
        "flower": stack.flower_url,
        "rabbitmq": f"{stack.management_url}    {stack.broker_url}",
        "mail": f"{stack.local_url('mail')}    smtp://127.0.0.1:{stack.instance.ports['smtp']}",
        "model": stack.local_url("model", "/v1"),
        "postgres": stack.database_url.replace("+psycopg2", ""),
    }
    if stack.own_database and is_running(stack.instance):
        names.add("postgres")
    foreign = {"rabbitmq": not stack.own_broker, "postgres": not stack.own_database}
    table = Table("process", "state", "address", box=box.SIMPLE, pad_edge=False)
    for name in (*PROCESSES, "postgres"):
        up = "[green]up[/]" if name in names else "[red]down[/]"
        table.add_row(name, "[cyan]yours[/]" if foreign.get(name) else up, addresses.get(name, ""))
    # addresses are copied by users: neither wrapped nor truncated
    Console(width=200).print(table)
    console.print(f"checkout {CHECKOUT}\nlogs     {stack.instance.logs}", soft_wrap=True, highlight=False)


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
