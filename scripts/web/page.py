"""The page: a tab a job, all on the functions and options of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr
from starlette.middleware import Middleware

from . import WebOptions, is_own
from .ask import answer_tab, judge_tab
from .edit import edit_tab
from .guard import LOCAL, Guard
from .rebuild import rebuild_tab
from .restore import restore_tab


def build(options: WebOptions) -> gr.Blocks:
    """The page."""
    root = options.folder.resolve()
    with gr.Blocks(title="burnish", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown("# burnish\nResults made better step by step, on this machine: nothing leaves it.")
        with gr.Tab("Restore"):
            restore_tab(options, root)
        with gr.Tab("Edit"):
            edit_tab(options, root)
        with gr.Tab("Rebuild"):
            rebuild_tab(options, root)
        with gr.Tab("Judge"):
            judge_tab(options)
        with gr.Tab("Answer"):
            answer_tab(options)
    return page


@contextmanager
def serve(options: WebOptions) -> Iterator[str]:
    """The page, served until the block ends; gives its address."""
    page = build(options).queue(default_concurrency_limit=1, max_size=64)
    hosts = LOCAL if is_own(options.host) else ()
    _, address, _ = page.launch(
        server_name=options.host,
        server_port=options.port or None,
        auth=("burnish", options.token) if options.token else None,
        auth_message="The user is burnish, the password the token that the page was opened with.",
        allowed_paths=[str(options.folder.resolve() / "results")],
        max_file_size=options.max_megabytes * 1024**2,
        app_kwargs={"middleware": [Middleware(Guard, hosts=hosts)], "docs_url": None, "redoc_url": None},
        theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        footer_links=[],
        prevent_thread_lock=True,
        enable_monitoring=False,
        ssr_mode=False,
        share=False,
        quiet=True,
        _frontend=False,  # gradio gives the page three seconds to answer, and does not start on a busy machine
    )
    try:
        yield address
    finally:
        page.close(verbose=False)
