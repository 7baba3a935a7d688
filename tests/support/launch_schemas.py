"""Validators of launch files: Kubernetes schemas with CEL rules, and botocore models of AWS APIs.

Each validator yields `path: problem` for every problem, and is stricter than kubectl or botocore.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import celpy
from botocore.validate import ParamValidator
from celpy.adapter import json_to_cel
from celpy.celtypes import StringType
from jsonschema import Draft7Validator, Draft202012Validator
from kubernetes_validate import ValidationError, validate

KUBERNETES = "1.33"
DATA = Path(__file__).parents[1] / "data"


@cache
def _schemas() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / "kubernetes-crds.json").read_text(encoding="utf-8"))
    return found


@cache
def _session() -> botocore.session.Session:
    return botocore.session.get_session()


def kubernetes_problems(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the violations of the schema, the pod schema and the CEL rules in a custom resource."""
    name = f"{document.get('apiVersion')} {document.get('kind')}"
    if name not in _schemas():
        yield f"$: no schema of '{name}'"
        return
    schema = _schemas()[name]
    for error in Draft202012Validator(_without_pods(schema)).iter_errors(document):
        yield f"{error.json_path}: {error.message}"
    for path, found, value in _walk(schema, document, "$"):
        if found.get("$ref") == "pod":
            yield from _pod_problems(path, value)
        yield from _cel_problems(path, found.get("x-cel", ()), value)


def eksctl_problems(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the violations of eksctl's schema in a cluster configuration."""
    schema = json.loads((DATA / "eksctl.json").read_text(encoding="utf-8"))
    for error in Draft7Validator(schema).iter_errors(document):
        yield f"{error.json_path}: {error.message}"


def _without_pods(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_pods(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("$ref") == "pod":
        return {}
    return {key: _without_pods(value) for key, value in schema.items() if key != "x-cel"}


def _walk(schema: Mapping[str, Any], value: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    """Yield path, schema and value of every nested value that the schema describes."""
    yield path, schema, value
    if isinstance(value, dict):
        more = schema.get("additionalProperties")
        for key, entry in value.items():
            inner = schema.get("properties", {}).get(key) or (more if isinstance(more, dict) else None)
            if inner:
                yield from _walk(inner, entry, f"{path}.{key}")
    if isinstance(value, list) and "items" in schema:
        for i, entry in enumerate(value):
            yield from _walk(schema["items"], entry, f"{path}[{i}]")


def _pod_problems(path: str, template: Any) -> Iterator[str]:
    document = {
        "apiVersion": "v1",
        "kind": "PodTemplate",
        "metadata": {"name": "template"},
        "template": template,
    }
    try:
        validate(document, KUBERNETES, strict=True)
    except ValidationError as error:
        yield f"{path}: {error.message}"


def _cel_problems(path: str, rules: Any, value: Any) -> Iterator[str]:
    environment = celpy.Environment()
    for rule in rules:
        if "oldSelf" in rule:
            continue  # for updates of an object
        program = environment.program(environment.compile(rule), functions={"find": _find})
        if not program.evaluate({"self": json_to_cel(value)}):
            yield f"{path}: violates {rule}"


def _find(text: str, pattern: str) -> StringType:
    """Return the first match of a pattern, like the function `find` that Kubernetes adds to CEL."""
    found = re.search(pattern, text)
    return StringType(found[0] if found else "")


def aws_problems(service: str, operation: str, value: Mapping[str, Any]) -> Iterator[str]:
    """Yield the problems of an AWS API input: keys, types, patterns and enum values of the botocore model."""
    shape = _session().get_service_model(service).operation_model(operation).input_shape
    report = ParamValidator().validate(value, shape)
    if report.has_errors():
        yield f"$: {report.generate_report()}"
        return
    yield from _text_problems(shape, value, "$")


def _text_problems(shape: Any, value: Any, path: str) -> Iterator[str]:
    if shape.type_name == "structure":
        for key, entry in value.items():
            yield from _text_problems(shape.members[key], entry, f"{path}.{key}")
    elif shape.type_name == "list":
        for i, entry in enumerate(value):
            yield from _text_problems(shape.member, entry, f"{path}[{i}]")
    elif shape.type_name == "map":
        for key, entry in value.items():
            yield from _text_problems(shape.value, entry, f"{path}.{key}")
    elif shape.type_name == "string":
        pattern = shape.metadata.get("pattern")
        if pattern and not re.fullmatch(pattern, value):
            yield f"{path}: '{value}' does not match {pattern}"
        if shape.enum and value not in shape.enum:
            yield f"{path}: '{value}' is not one of {', '.join(shape.enum[:5])} …"
