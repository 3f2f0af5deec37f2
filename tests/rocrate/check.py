"""Has third-party validators look at bundles: `python check.py BUNDLE...`, with roc-validator 0.13.0.

Each has to be a Provenance Run Crate (all that is REQUIRED), and must not be one any more without the tool of an action. The
two JSON-LD contexts that crates refer to are read from `contexts/`, so that this needs no network. They are those of
https://w3id.org/ro/crate/1.1/context (CC0) and https://w3id.org/ro/terms/workflow-run/context.

The digest lists are checked by `sha256sum` and, where there is one, by `b3sum`.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import requests

HERE = pathlib.Path(__file__).parent / "contexts"
CONTEXTS = {
    "https://w3id.org/ro/crate/1.1/context": HERE / "ro-crate-1.1.jsonld",
    "https://w3id.org/ro/terms/workflow-run/context": HERE / "workflow-run.jsonld",
}


def answer(url: str) -> requests.Response:
    """The response that a server would give for one of the contexts."""
    response = requests.Response()
    response.status_code, response.url = 200, url
    response.headers["Content-Type"] = "application/ld+json"
    response._content = CONTEXTS[url].read_bytes()
    return response


def without_network() -> None:
    """Contexts come from files; whatever else is asked for goes out as ever."""
    ask = requests.Session.request

    def request(session, method, url, *arguments, **options):
        return answer(url) if url in CONTEXTS else ask(session, method, url, *arguments, **options)

    requests.Session.request = request
    try:
        import requests_cache
        requests_cache.CachedSession.request = request
    except ImportError:
        pass
    from rocrate_validator.utils import document_loader
    fetch = document_loader._fetch_json_ld
    document_loader._fetch_json_ld = lambda url: json.loads(CONTEXTS[url].read_text()) if url in CONTEXTS else fetch(url)
    document_loader.install_document_loader()


def issues(folder: pathlib.Path) -> list[str]:
    from rocrate_validator import models, services
    settings = services.ValidationSettings(
        rocrate_uri=str(folder), profile_identifier="provenance-run-crate", requirement_severity=models.Severity.REQUIRED)
    return [f"{it.check.identifier} {it.message}" for it in services.validate(settings).get_issues()]


def main() -> None:
    without_network()
    for folder in map(pathlib.Path, sys.argv[1:]):
        found = issues(folder)
        assert not found, f"{folder}: {found}"
        with tempfile.TemporaryDirectory() as scratch:
            copy = pathlib.Path(scratch) / "copy"
            shutil.copytree(folder, copy, copy_function=shutil.copyfile)
            path = copy / "ro-crate-metadata.json"
            metadata = json.loads(path.read_text())
            action = next(it for it in metadata["@graph"] if it["@id"].startswith("#action/"))
            del action["instrument"]
            path.write_text(json.dumps(metadata))
            assert issues(copy), f"{folder}: an action without its tool passes"
        subprocess.run(["sha256sum", "--check", "--quiet", "digests.sha256"], cwd=folder, check=True)
        lists = "sha256sum"
        if shutil.which("b3sum"):
            subprocess.run(["b3sum", "--check", "--quiet", "digests.b3"], cwd=folder, check=True)
            lists += " and b3sum"
        print(f"{folder}: a Provenance Run Crate, and its files are as listed, say roc-validator, {lists}")


main()
