"""`Dockerfile` and `compose.yaml`, read as text: no image is built here."""

import re
import shlex
from itertools import pairwise

import pytest
import yaml

from tests.made import REPOSITORY


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((REPOSITORY / "compose.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def stages():
    """The stages of the Dockerfile: name, image or stage that it begins with, instructions."""
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.M).replace("\\\n", " ")
    found = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            image, _, name = re.split(r"\s+(AS)\s+", rest)
            found[name] = (image, [])
        else:
            list(found.values())[-1][1].append((word, rest))
    return found


def instructions(stages, name, word):
    """Return what a stage says with a word, after what the stages that it begins with say."""
    image, lines = stages[name]
    before = instructions(stages, image, word) if image in stages else []
    return before + [rest for said, rest in lines if said == word]


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_runs_without_root_and_says_whether_it_is_ready(stages, target):
    assert instructions(stages, target, "USER")[-1] == "10001"
    assert "/ready" in instructions(stages, target, "HEALTHCHECK")[-1]
    assert instructions(stages, target, "CMD")[-1].startswith('["python", "scripts/serve.py"')
    copied = " ".join(instructions(stages, target, "COPY"))
    assert "--from=packages" in copied and "pyproject" not in copied


def test_images_follow_the_rules_of_hadolint(stages):
    for name, (image, lines) in stages.items():
        assert image in stages or re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+[\w.-]*", image), (
            image
        )  # DL3006, DL3007
        words = [word for word, _ in lines]
        assert not {"ADD", "MAINTAINER"} & set(words), name  # DL3020, DL4000
        assert ("RUN", "RUN") not in pairwise(words), name  # DL3059
        for word, rest in lines:
            if word in ("CMD", "ENTRYPOINT"):
                assert rest.startswith("["), rest  # DL3025
            if word == "WORKDIR":
                assert rest.startswith("/")  # DL3000
            if word != "RUN":
                continue
            assert not re.search(r"\bsudo\b|\bcd\b|\|", rest), rest  # DL3004, DL3003, DL4006
            for command in rest.split("&&"):
                if "pip install" in command:
                    words = shlex.split(command)
                    assert "--no-cache-dir" in words, command  # DL3042
                    named = [word for word in words[words.index("install") + 1 :] if word[0].isalpha()]
                    assert all(re.search(r"==|\.txt$", word) for word in named), command  # DL3013


def test_the_packages_of_an_image_are_those_of_serving():
    names = ("requirements-cluster.txt", "requirements-serve.txt")
    text = "".join((REPOSITORY / name).read_text(encoding="utf-8") for name in names)
    asked = set(re.findall(r"^([a-z][\w-]*)", text, re.M))
    assert {"onnxruntime", "psycopg", "celery", "redis", "s3fs"} <= asked
    assert not {"torch", "torchvision", "lightning", "onnx"} & asked
    pinned = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").lower().replace("_", "-")
    assert [name for name in asked if f"\n{name}==" not in pinned] == []


def test_what_is_copied_into_an_image_is_there_and_not_ignored(stages):
    kept = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for _, lines in stages.values():
        for word, rest in lines:
            if word == "COPY" and "--from" not in rest:
                for name in rest.split()[:-1]:
                    assert (REPOSITORY / name).exists() and f"!{name.rstrip('/')}" in kept, name


def test_gpus_are_asked_for_beside_their_image(stages):
    services = yaml.safe_load((REPOSITORY / "compose.cuda.yaml").read_text(encoding="utf-8"))["services"]
    assert {"web", "worker"} == set(services)
    for service in services.values():
        assert service["build"]["target"] == "cuda" in stages and service["image"] == "corbel:cuda"
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
    assert "uninstall --yes onnxruntime" in instructions(stages, "packages-cuda", "RUN")[-1]


def test_services_are_read_only_healthy_and_apart(compose):
    services = compose["services"]
    assert {"web", "worker", "postgres", "redis", "prometheus"} == set(services)
    for name, service in services.items():
        assert service.get("read_only", False) == (name != "prometheus"), name
        assert not service.get("privileged"), name
        if name != "web":  # its image says it
            assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
        assert "latest" not in service["image"] and ":" in service["image"]
        assert not service.get("ports") or name in ("web", "prometheus"), f"{name} publishes a port"
    for name in ("web", "worker"):
        needed = services[name]["depends_on"]
        assert all(needed[other]["condition"] == "service_healthy" for other in ("postgres", "redis"))
        assert "/tmp:size=256m" in services[name]["tmpfs"] and services[name]["cap_drop"] == ["ALL"]
    assert compose["networks"]["back"]["internal"] is True
    assert services["postgres"]["networks"] == services["redis"]["networks"] == ["back"]
    assert "database:/var/lib/postgresql/data" in services["postgres"]["volumes"]
    named = {volume.split(":")[0] for s in services.values() for volume in s.get("volumes", [])}
    assert {volume for volume in named if not volume.startswith(".")} == set(compose["volumes"])


def test_secrets_come_from_the_environment(compose):
    text = (REPOSITORY / "compose.yaml").read_text(encoding="utf-8")
    given = compose["services"]["web"]["environment"]
    assert all("${" in value and ":?" in value for value in given.values()), given
    assert "${POSTGRES_PASSWORD}" in text and "${REDIS_PASSWORD}" in text
    from src.serving.settings import Settings

    names = [name.removeprefix("CORBEL_").lower() for name in given]
    assert set(names) <= set(Settings.model_fields)


def test_the_manifest_for_kubernetes_is_complete():
    text = (REPOSITORY / "docs" / "service.md").read_text(encoding="utf-8")
    (manifest,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    parts = {(part["kind"], part["metadata"]["name"]): part for part in yaml.safe_load_all(manifest)}
    kinds = [kind for kind, _ in parts]
    assert kinds.count("Deployment") == 2 and "Service" in kinds
    scaler = parts["HorizontalPodAutoscaler", "corbel-worker"]["spec"]
    assert scaler["metrics"][0]["external"]["metric"]["name"] == "corbel_jobs_waiting"
    for name in ("corbel-web", "corbel-worker"):
        pod = parts["Deployment", name]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["livenessProbe"] and container["resources"]
