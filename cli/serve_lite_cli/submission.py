"""A config file as the request that it becomes: read, its paths made absolute, and checked."""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from serve_lite.admin.documents import BASE_DIR_HEADER, deploy_request, is_single_app, single_app_request
from serve_lite.admin.mistakes import find_mistakes
from serve_lite.admin.notices import notice_of
from serve_lite.controller.goals import accept_deploy
from serve_lite.exceptions import ServeLiteError
from serve_lite.state.goal import Goal
from serve_lite.wire.messages import DeployRequest
from serve_lite_cli.files import ConfigFile, absolute_paths, read_config


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """What a config file asks for."""

    config: ConfigFile
    document: dict[str, Any]  #: with absolute paths
    request: DeployRequest

    @property
    def is_single(self) -> bool:
        """Whether the file is of the older kind, with a single application."""
        return is_single_app(self.document)

    def tell_notice(self) -> None:
        """Tell what the file says that has no effect on one machine, if anything."""
        if notice := notice_of(self.document):
            print(notice, file=sys.stderr, flush=True)

    @property
    def names(self) -> list[str]:
        """The applications, in the order of the file."""
        return [app.name for app in self.request.apps]

    @property
    def headers(self) -> dict[str, str]:
        """What the control plane has to know beside the document."""
        return {BASE_DIR_HEADER: self.config.folder}


def read_submission(name: str) -> Submission:
    """Return what the file `name` asks for. An instance checks it too; here mistakes are told even if none is up.

    Raises:
        InvalidConfigError: the file or what is in it is wrong; tells every mistake, with its place.
    """
    config = read_config(name)
    document = absolute_paths(config.document, config.folder)
    make_request = single_app_request if is_single_app(document) else deploy_request

    def check(candidate: dict[str, Any]) -> DeployRequest:
        request = make_request(candidate, base_dir=config.folder)
        accept_deploy(Goal(), request, now=0.0, alive=())  # names and prefixes, as a new instance takes them
        return request

    try:
        request = check(document)
    except ServeLiteError:
        raise config.explain(*find_mistakes(document, check)) from None
    config.refuse_duplicates()
    return Submission(config=config, document=document, request=request)
