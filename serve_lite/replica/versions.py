"""What is in the files of deployments, as a text, so that only those are replaced whose code has changed.

For applications that are deployed again after a file has changed. A deployment's content is the user's files that its
module needs, its constructor arguments with the files that those need, and the router it asks for. What it only has a
handle to is not among it: that is another deployment.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Sequence

import msgspec

from serve_lite.replica.content import Sources, library_folders, loaded_files
from serve_lite.replica.payloads import describe
from serve_lite.state.goal import DeploymentSpec


def with_content_versions(specs: Sequence[DeploymentSpec], import_path: str) -> tuple[DeploymentSpec, ...]:
    """Return the deployments that were just built here, each with a digest of its content.

    To be called in the process that imported the application, which knows the modules that were loaded for it.
    """
    sources = Sources(sys.path, loaded=loaded_files(), libraries=library_folders())
    return versioned(specs, import_path, sources)


def versioned(
    specs: Sequence[DeploymentSpec], import_path: str, sources: Sources
) -> tuple[DeploymentSpec, ...]:
    """Return the deployments with what `sources` finds in their files.

    A loaded module that no import statement leads to was loaded in a way that cannot be read from files. Any
    deployment may need it, so it counts for all.
    """
    contents = [_content(spec) for spec in specs]
    entry = import_path.partition(":")[0] if ":" in import_path else import_path.rpartition(".")[0]
    known = sources.needed_by([entry, *(root for _, roots in contents for root in roots)])
    unexplained = sources.loaded - known.keys()
    return tuple(
        msgspec.structs.replace(spec, version=_digest(digests, sources, {*roots, *unexplained}))
        for spec, (digests, roots) in zip(specs, contents, strict=True)
    )


def _digest(digests: Sequence[str], sources: Sources, roots: Iterable[str]) -> str:
    files = sources.digest(sources.needed_by(roots))
    return hashlib.sha256("\n".join([*digests, files]).encode()).hexdigest()[:24]


def _content(spec: DeploymentSpec) -> tuple[list[str], set[str]]:
    """Return what identifies a deployment beside its files, and the modules where its files begin."""
    init = describe(spec.init)
    roots = {*init.modules}
    kind, *code = msgspec.msgpack.decode(spec.code)
    if kind == "ref":
        digests = [init.digest, *code]
        roots.add(code[0])
    else:
        by_value = describe(code[0])
        digests = [init.digest, by_value.digest]
        roots |= by_value.modules
    router = (spec.config.request_router_config or {}).get("request_router_class")
    if isinstance(router, str):
        roots.add(router.replace(":", ".").rpartition(".")[0])
    return digests, roots
