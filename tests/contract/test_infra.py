"""What infra/ promises, read from the Bicep itself: it is well-formed, safe, and names things as the code does.

There is no Bicep compiler for Python. A grammar (tree-sitter-bicep) checks the syntax, and a small evaluator below lays
out what main.bicep would deploy, modules and loops included. It knows only the language that infra/ uses and raises on
the rest. It does not know the properties of Azure's resource types.
"""

import importlib.util
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pytest
import tree_sitter_bicep
from tree_sitter import Language, Node, Parser

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
MAIN = INFRA / "main.bicep"
FILES = sorted(INFRA.rglob("*.bicep"))
NAMES = [path.relative_to(INFRA).as_posix() for path in FILES]
BICEP = Parser(Language(tree_sitter_bicep.language()))

# Built-in roles, by https://learn.microsoft.com/azure/role-based-access-control/built-in-roles (2026-07-01).
ROLES = {
    "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": "Storage Blob Data Owner",
    "974c5e8b-45b9-4653-ba55-5f855dd0fb88": "Storage Queue Data Contributor",
    "c6a89b2d-59bc-44d0-9896-0f6e12d7b80a": "Storage Queue Data Message Sender",
    "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3": "Storage Table Data Contributor",
    "76199698-9eea-4c19-bc75-cec21354c6b6": "Storage Table Data Reader",
    "3913510d-42f4-4e42-8a64-420c390055eb": "Monitoring Metrics Publisher",
}
# Application permissions, by Microsoft's own list, which its permissions reference is made from:
# https://github.com/microsoftgraph/microsoft-graph-devx-content, permissions/permissions-descriptions.json.
GRAPH_ROLES = {
    "5b07b0dd-2377-4e44-a38d-703f09a0dc3c": "DeviceManagementManagedDevices.PrivilegedOperations.All",
    "2f51be20-0bb4-4fed-bf7b-db946066c75e": "DeviceManagementManagedDevices.Read.All",
    "06a5fe6d-c49d-46a7-b082-56b1b14103c7": "DeviceManagementServiceConfig.Read.All",
    "7438b122-aefc-4978-80ed-43db9fcc7715": "Device.Read.All",
    "98830695-27a2-44f7-8c18-0c3ebc9698f6": "GroupMember.Read.All",
    "97235f07-e226-4f63-ace3-39588e11d3a1": "User.ReadBasic.All",
    "dc377aa6-52d8-4e23-b271-2a7ae04cedf3": "DeviceManagementConfiguration.Read.All",
}

type Value = str | int | bool | list[Value] | dict[str, Value] | Reference | None


@dataclass(frozen=True)
class Reference:
    """Something only Azure knows, such as a property of a deployed resource: the resource it leads to, and the way."""

    of: str
    path: str = ""

    def __str__(self) -> str:
        return f"<{self.of}{self.path}>"

    def __getitem__(self, key: str) -> "Reference":
        return Reference(self.of, f"{self.path}.{key}")


@dataclass(frozen=True)
class Resource:
    """One resource that would be deployed: its type, API version, and its body with everything known filled in."""

    type: str
    version: str
    id: str
    body: dict[str, Value]


@dataclass
class Bicep:
    """One parsed .bicep file."""

    path: Path
    root: Node
    params: dict[str, Node] = field(default_factory=dict)
    declared: dict[str, Node] = field(default_factory=dict)
    outputs: dict[str, Node] = field(default_factory=dict)


def source(path: Path) -> bytes:
    """The file without its `extension` lines: tree-sitter-bicep 1.1 does not know them yet."""
    return re.sub(rb"(?m)^extension \w+$", b"", path.read_bytes())


def text(node: Node) -> str:
    return (node.text or b"").decode()


def walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from walk(child)


def load(path: Path) -> Bicep:
    file = Bicep(path, BICEP.parse(source(path)).root_node)
    for node in file.root.named_children:
        if node.type in {"comment", "decorators", "target_scope_assignment"}:
            continue
        name = text(node.named_children[0])
        if node.type == "output_declaration":
            file.outputs[name] = node
            continue
        assert node.type in {
            "parameter_declaration",
            "variable_declaration",
            "resource_declaration",
            "module_declaration",
        }, f"{path.name}: the checks do not know {node.type}"
        assert name not in file.declared, f"{path.name} declares {name} twice"
        file.declared[name] = node
        if node.type == "parameter_declaration":
            file.params[name] = node
    return file


def default_of(param: Node) -> Node | None:
    """A parameter's default value; None if it is required."""
    return param.named_children[-1] if any(child.type == "=" for child in param.children) else None


def union(*parts: Value) -> Value:
    merged: dict[str, Value] = {}
    for part in parts:
        assert isinstance(part, dict)
        merged |= part
    return merged


FUNCTIONS: Mapping[str, Callable[..., Value]] = {
    "empty": lambda value: not value,
    "guid": lambda *parts: "guid:" + "/".join(map(str, parts)),
    "subscription": lambda: Reference("subscription"),
    "subscriptionResourceId": lambda kind, name: f"{kind}/{name}",
    "tenant": lambda: Reference("tenant"),
    "toLower": lambda value: value.lower(),
    "union": union,
    "uniqueString": lambda *_: "u2n3i4q5u6e7x",
}


class Deployment:
    """What one file deploys for the parameters given. Resources of modules are deployed as they are met."""

    def __init__(self, path: Path, given: Mapping[str, Value], deployed: list[Resource]) -> None:
        self.file = load(path)
        self.deployed = deployed
        self.known: dict[str, Value] = {}
        for name, param in self.file.params.items():
            default = default_of(param)
            assert name in given or default is not None, f"{path.name} needs {name}"
            self.known[name] = given[name] if name in given or default is None else self.value(default)
        for name, node in self.file.declared.items():
            if node.type != "parameter_declaration":
                self.known[name] = self.declare(node)
        self.outputs = {name: self.value(node.named_children[-1]) for name, node in self.file.outputs.items()}

    def declare(self, node: Node) -> Value:
        if node.type == "variable_declaration":
            return self.value(node.named_children[-1])
        target = str(self.value(node.named_children[1]))
        body = node.named_children[-1]
        if body.type == "if_statement":
            if not self.value(body.named_children[0]):
                return None
            body = body.named_children[-1]
        if node.type == "module_declaration":
            return self.module(target, body)
        existing = any(child.type == "existing" for child in node.children)
        if body.type == "for_statement":
            return [self.resource(target, item, existing) for item in self.each(body)]
        return self.resource(target, self.value(body), existing)

    def module(self, target: str, body: Node) -> Value:
        settings = self.value(body)
        assert isinstance(settings, dict)
        params = settings["params"]
        assert isinstance(params, dict)
        return {"outputs": Deployment(self.file.path.parent / target, params, self.deployed).outputs}

    def resource(self, target: str, body: Value, existing: bool) -> Value:
        assert isinstance(body, dict)
        kind, _, version = target.partition("@")
        parent = body.get("parent")
        name = str(body.get("name", body.get("appId", kind)))
        identity = f"{parent.of}/{name}" if isinstance(parent, Reference) else f"{kind.rpartition('/')[2]}/{name}"
        if not existing:
            self.deployed.append(Resource(kind, version, identity, body))
        return Reference(identity)

    def each(self, loop: Node) -> Iterator[Value]:
        """The loop's body for each of its items."""
        first, items, body = (child for child in loop.named_children if child.type != "comment")
        variables = [text(child) for child in first.named_children] if first.named_children else [text(first)]
        values = self.value(items)
        assert isinstance(values, list)
        outer = dict(self.known)
        for index, item in enumerate(values):
            self.known |= dict(zip(variables, (item, index), strict=False))
            yield self.value(body)
        self.known = outer

    def access(self, node: Node) -> Value:
        """Member access. The grammar binds it looser than ?: (a ? b : c.d reads as (a ? b : c).d): set that right."""
        chain: list[str] = []
        base = node
        while base.type == "member_expression":
            chain.insert(0, text(base.named_children[-1]))
            base = base.named_children[0]
        if base.type == "ternary_expression":
            condition, yes, no = base.named_children
            return self.value(yes) if self.value(condition) else self.follow(self.value(no), chain)
        return self.follow(self.value(base), chain)

    def follow(self, value: Value, chain: list[str]) -> Value:
        for key in chain:
            if isinstance(value, Reference):
                # A name is known before deployment; so is an id. The rest is Azure's to say.
                known: dict[str, Value] = {"name": value.of.rpartition("/")[2], "id": value}
                value = known.get(key, value[key]) if not value.path else value[key]
            else:
                assert isinstance(value, dict), f"{self.file.path.name}: no {key} in {value}"
                value = value[key]
        return value

    def value(self, node: Node) -> Value:
        inner = [child for child in node.named_children if child.type != "comment"]
        match node.type:
            case "string":
                parts = []
                for child in inner:
                    if child.type == "interpolation":
                        parts.append(str(self.value(child.named_children[0])))
                    else:
                        parts.append(text(child) if child.type == "string_content" else text(child)[1:])
                return "".join(parts)
            case "number":
                return int(text(node))
            case "boolean":
                return text(node) == "true"
            case "null":
                return None
            case "identifier":
                return self.known[text(node)]
            case "parenthesized_expression":
                return self.value(inner[0])
            case "array":
                return [self.value(child) for child in inner]
            case "object":
                pairs = [child.named_children for child in inner]
                return {
                    text(key) if key.type == "identifier" else str(self.value(key)): self.value(value)
                    for key, value in pairs
                }
            case "for_statement":
                return list(self.each(node))
            case "member_expression":
                return self.access(node)
            case "subscript_expression":
                items, index = self.value(inner[0]), self.value(inner[1])
                assert isinstance(items, list)
                assert isinstance(index, int)
                return items[index]
            case "ternary_expression":
                return self.value(inner[1]) if self.value(inner[0]) else self.value(inner[2])
            case "unary_expression" if text(node).startswith("!"):
                return not self.value(inner[0])
            case "binary_expression" if node.children[1].type in {"||", "&&"}:
                left = bool(self.value(inner[0]))
                return (
                    left or bool(self.value(inner[1]))
                    if node.children[1].type == "||"
                    else left and bool(self.value(inner[1]))
                )
            case "call_expression":
                return FUNCTIONS[text(inner[0])](*(self.value(child) for child in inner[1].named_children))
        raise NotImplementedError(f"{self.file.path.name}:{node.start_point[0] + 1}: {node.type} {text(node)[:60]}")


def deploy(**given: Value) -> list[Resource]:
    """All that main.bicep deploys, for an environment named `lab` and the parameters given."""
    deployed: list[Resource] = []
    Deployment(MAIN, {"environmentName": "lab", "location": "westeurope", **given}, deployed)
    return deployed


def of_type(resources: list[Resource], kind: str) -> list[Resource]:
    return [resource for resource in resources if resource.type == kind]


def get(resource: Resource, *path: str) -> Value:
    value: Value = resource.body
    for key in path:
        assert isinstance(value, dict), f"{resource.id} has no {'.'.join(path)}"
        value = value.get(key)
    return value


def site(resources: list[Resource], role: str) -> Resource:
    (found,) = [app for app in of_type(resources, "Microsoft.Web/sites") if f"-{role}-" in app.id]
    return found


def settings(resources: list[Resource], role: str) -> dict[str, Value]:
    """The app settings of the front or the engine."""
    (found,) = [
        config.body["properties"]
        for config in of_type(resources, "Microsoft.Web/sites/config")
        if f"-{role}-" in config.id and config.body["name"] == "appsettings"
    ]
    assert isinstance(found, dict)
    return found


def rights(resources: list[Resource], role: str) -> set[tuple[str, str]]:
    """What the identity of the front or the engine may do in Azure: (where, role)."""
    found: set[tuple[str, str]] = set()
    for grant in of_type(resources, "Microsoft.Authorization/roleAssignments"):
        scope = grant.body["scope"]
        assert isinstance(scope, Reference)
        if f"id-{role}-" in str(get(grant, "properties", "principalId")):
            definition = str(get(grant, "properties", "roleDefinitionId")).rpartition("/")[2]
            found.add((re.sub(r"u2n3i4q5u6e7x", "", scope.of), ROLES[definition]))
    return found


def package_builder() -> "object":
    """infra/package.py as a module; infra is no package, as nothing in it is deployed."""
    spec = importlib.util.spec_from_file_location("infra_package", INFRA / "package.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Well-formed


@pytest.mark.parametrize("name", NAMES)
def test_bicep_parses_without_errors(name: str) -> None:
    root = BICEP.parse(source(INFRA / name)).root_node

    faults = [
        f"{name}:{node.start_point[0] + 1}: {text(node)[:60]!r}"
        for node in walk(root)
        if node.type == "ERROR" or node.is_missing
    ]

    assert not faults


@pytest.mark.parametrize("name", NAMES)
def test_module_calls_match_what_the_module_declares(name: str) -> None:
    file = load(INFRA / name)
    for symbol, node in file.declared.items():
        if node.type != "module_declaration":
            continue
        path = file.path.parent / text(node.named_children[1]).strip("'")
        assert path.is_file(), f"{name}: {symbol} is at {path}, which does not exist"
        module = load(path)
        body = node.named_children[-1]
        if body.type == "if_statement":
            body = body.named_children[-1]
        pairs = {text(pair.named_children[0]): pair.named_children[1] for pair in body.named_children}
        passed = {text(pair.named_children[0]) for pair in pairs["params"].named_children}
        required = {param for param, declaration in module.params.items() if default_of(declaration) is None}
        assert passed <= module.params.keys(), f"{name}: {symbol} has no {passed - module.params.keys()}"
        assert required <= passed, f"{name}: {symbol} needs {required - passed}"
        used = set(re.findall(rf"\b{symbol}\.outputs\.(\w+)", file.path.read_text("utf-8")))
        assert used <= module.outputs.keys(), f"{name}: {symbol} gives no {used - module.outputs.keys()}"


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_declared_and_every_parameter_and_variable_used(name: str) -> None:
    file = load(INFRA / name)
    used: set[str] = set()
    local: set[str] = set()
    for node in walk(file.root):
        if node.type == "for_statement":
            first = node.named_children[0]
            local |= {text(child) for child in first.named_children} or {text(first)}
        if node.type != "identifier" or node.parent is None:
            continue
        parent = node.parent
        is_name = parent.type.endswith("_declaration") and parent.named_children[0] == node
        is_key = parent.type == "object_property" and parent.named_children[0] == node
        is_function = parent.type == "call_expression" and parent.named_children[0] == node
        if is_function and parent.parent is not None and parent.parent.type != "decorator":
            assert text(node) in FUNCTIONS, f"{name}:{node.start_point[0] + 1}: the checks do not know {text(node)}()"
        elif not (is_name or is_key or is_function):
            used.add(text(node))

    assert used <= file.declared.keys() | local
    inputs = {n for n, node in file.declared.items() if node.type in {"parameter_declaration", "variable_declaration"}}
    assert inputs <= used


@pytest.mark.parametrize("name", NAMES)
def test_resource_types_are_pinned_to_a_dated_version(name: str) -> None:
    for node in load(INFRA / name).declared.values():
        if node.type != "resource_declaration":
            continue
        kind, _, version = text(node.named_children[1]).strip("'").partition("@")
        assert re.fullmatch(r"Microsoft\.\w+(/\w+)+", kind)
        if kind.startswith("Microsoft.Graph/"):
            assert version == "v1.0"
        else:
            assert date(2020, 1, 1) < date.fromisoformat(version) < date(2026, 1, 1), f"{kind} has no stable version"


def test_a_resource_type_has_one_version_everywhere() -> None:
    versions: dict[str, set[str]] = {}
    for path in FILES:
        for kind, version in re.findall(r"'(Microsoft\.[\w./]+)@([^']+)'", path.read_text("utf-8")):
            versions.setdefault(kind, set()).add(version)

    assert {kind: found for kind, found in versions.items() if len(found) > 1} == {}


def test_azd_gives_only_parameters_that_exist_and_all_that_are_required() -> None:
    params = load(MAIN).params
    given = json.loads((INFRA / "main.parameters.json").read_text("utf-8"))["parameters"].keys()

    assert given <= params.keys()
    assert {name for name, param in params.items() if default_of(param) is None} <= given


def test_azd_services_are_the_apps_that_bicep_tags() -> None:
    services = re.findall(r"(?m)^  (\w+):\n    project:", (ROOT / "azure.yaml").read_text("utf-8"))

    tagged = {get(app, "tags", "azd-service-name") for app in of_type(deploy(), "Microsoft.Web/sites")}

    assert tagged == set(services)


# Safe


def test_no_storage_account_takes_shared_keys_old_tls_or_anonymous_readers() -> None:
    accounts = of_type(deploy(), "Microsoft.Storage/storageAccounts")

    assert len(accounts) == 2
    for account in accounts:
        assert get(account, "properties", "allowSharedKeyAccess") is False
        assert get(account, "properties", "allowBlobPublicAccess") is False
        assert get(account, "properties", "minimumTlsVersion") == "TLS1_2"
        assert get(account, "properties", "supportsHttpsTrafficOnly") is True
    for container in of_type(deploy(), "Microsoft.Storage/storageAccounts/blobServices/containers"):
        assert get(container, "properties", "publicAccess") == "None"


def test_nothing_but_entra_identities_is_accepted_for_telemetry_and_deployment() -> None:
    resources = deploy()

    (insights,) = of_type(resources, "Microsoft.Insights/components")
    (workspace,) = of_type(resources, "Microsoft.OperationalInsights/workspaces")
    assert get(insights, "properties", "DisableLocalAuth") is True
    assert get(workspace, "properties", "features", "disableLocalAuth") is True
    policies = of_type(resources, "Microsoft.Web/sites/basicPublishingCredentialsPolicies")
    assert {policy.id.partition("/")[2].rpartition("-")[0] for policy in policies} == {"func-front", "func-engine"}
    assert len(policies) == 4
    assert all(get(policy, "properties", "allow") is False for policy in policies)


def test_no_file_holds_or_asks_for_a_secret() -> None:
    for path in [*INFRA.rglob("*.bicep"), *INFRA.rglob("*.json"), ROOT / "azure.yaml"]:
        assert not re.search(
            r"@secure|listKeys|listAccountSas|AccountKey|SharedAccess|password|clientSecret",
            path.read_text("utf-8"),
            re.IGNORECASE,
        ), path.name


def test_s10_the_engine_is_closed_to_the_internet() -> None:
    engine = site(deploy(), "engine")

    assert get(engine, "properties", "publicNetworkAccess") == "Disabled"
    assert get(engine, "properties", "siteConfig", "ipSecurityRestrictionsDefaultAction") == "Deny"
    assert get(engine, "properties", "siteConfig", "scmIpSecurityRestrictionsDefaultAction") == "Deny"
    assert get(engine, "properties", "siteConfig", "scmIpSecurityRestrictions") == []


def test_s10_deploying_opens_the_engines_deployment_endpoint_to_one_range_only() -> None:
    config = get(site(deploy(deployFrom="203.0.113.7/32"), "engine"), "properties", "siteConfig")

    assert isinstance(config, dict)
    assert config["ipSecurityRestrictionsDefaultAction"] == "Deny"
    assert "ipSecurityRestrictions" not in config
    assert config["scmIpSecurityRestrictionsUseMain"] is False
    assert config["scmIpSecurityRestrictionsDefaultAction"] == "Deny"
    assert config["scmIpSecurityRestrictions"] == [
        {"name": "deploy", "action": "Allow", "ipAddress": "203.0.113.7/32", "priority": 100}
    ]


def test_s10_each_app_runs_under_an_identity_of_its_own() -> None:
    resources = deploy()
    for role in ("front", "engine"):
        assert get(site(resources, role), "identity", "type") == "UserAssigned"
        identities = get(site(resources, role), "identity", "userAssignedIdentities")
        assert isinstance(identities, dict)
        (identity,) = identities
        assert f"id-{role}-" in identity
        assert settings(resources, role)["TURNAROUND_ROLE"] == role
        for name, value in settings(resources, role).items():
            if name.lower().endswith(("clientid", "client_id")):
                assert f"id-{role}-" in str(value), name


def test_s10_the_front_may_only_send_requests_and_read_the_table() -> None:
    state = "storageAccounts/stengine"

    assert rights(deploy(), "front") == {
        (f"{state}/default/reset-requests", "Storage Queue Data Message Sender"),
        (f"{state}/default/turnaround", "Storage Table Data Reader"),
        ("storageAccounts/stfront", "Storage Blob Data Owner"),
        ("storageAccounts/stfront", "Storage Table Data Contributor"),
        ("components/appi-", "Monitoring Metrics Publisher"),
    }


def test_s10_the_engine_owns_its_own_storage_only() -> None:
    assert rights(deploy(), "engine") == {
        ("storageAccounts/stengine", "Storage Blob Data Owner"),
        ("storageAccounts/stengine", "Storage Queue Data Contributor"),
        ("storageAccounts/stengine", "Storage Table Data Contributor"),
        ("components/appi-", "Monitoring Metrics Publisher"),
    }


@pytest.mark.parametrize("role", ["front", "engine"])
def test_s10_the_deployment_page_names_the_rights_of_each_app(role: str) -> None:
    resources = deploy(grantGraphPermissions=True)
    page = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    ((on_storage, on_graph),) = re.findall(rf"(?m)^\| {role} \|(.*)\|(.*)\|$", page)

    told = re.findall(r"`([\w ]+)` on (?:`([\w-]+)`|the account)", on_storage)
    state = "storageAccounts/stengine"
    given = {(where, right) for where, right in rights(resources, role) if where.startswith(state)}
    assert {(f"{state}/default/{where}" if where else state, right) for right, where in told} == given
    assert (on_graph.strip() == "none") is not any(
        f"id-{role}-" in str(grant.body["principalId"])
        for grant in of_type(resources, "Microsoft.Graph/appRoleAssignedTo")
    )


def test_every_role_assignment_belongs_to_one_of_the_two_identities() -> None:
    resources = deploy()
    grants = of_type(resources, "Microsoft.Authorization/roleAssignments")

    assert len(grants) == len(rights(resources, "front")) + len(rights(resources, "engine"))
    assert len({grant.body["name"] for grant in grants}) == len(grants)


def test_s10_graph_roles_go_to_the_engine_alone_and_no_wider_than_needed() -> None:
    grants = of_type(deploy(grantGraphPermissions=True), "Microsoft.Graph/appRoleAssignedTo")

    assert {GRAPH_ROLES[str(grant.body["appRoleId"])] for grant in grants} == set(GRAPH_ROLES.values())
    assert len(grants) == len(GRAPH_ROLES)
    assert all("id-engine-" in str(grant.body["principalId"]) for grant in grants)
    comments = dict(re.findall(r"'([\da-f-]{36})' // (\S+)", (INFRA / "graph" / "app-roles.bicep").read_text("utf-8")))
    assert comments == GRAPH_ROLES


def test_graph_roles_are_left_out_unless_asked_for() -> None:
    assert not [resource for resource in deploy() if resource.type.startswith("Microsoft.Graph/")]


def test_the_engine_reads_its_policy_and_windows_from_files_that_are_deployed() -> None:
    found = settings(deploy(), "engine")
    deployed = package_builder().app_files()  # type: ignore[attr-defined]  # loaded from a file, so untyped

    assert {found["TURNAROUND_POLICY_FILE"], found["TURNAROUND_WINDOWS_FILE"]} <= {path.as_posix() for path in deployed}


def test_only_the_engine_is_told_how_to_reach_graph() -> None:
    resources = deploy()

    assert not [name for name in settings(resources, "front") if "GRAPH" in name]
    assert settings(resources, "engine")["TURNAROUND_GRAPH__CLOUD"] == "global"


# As it should run


def test_apps_run_python_3_13_on_a_flex_consumption_plan_of_their_own() -> None:
    resources = deploy()
    plans = of_type(resources, "Microsoft.Web/serverfarms")

    assert [plan.body["sku"] for plan in plans] == [{"name": "FC1", "tier": "FlexConsumption"}] * 2
    hosting = {str(get(site(resources, role), "properties", "serverFarmId")) for role in ("front", "engine")}
    assert len(hosting) == 2
    python = (ROOT / ".python-version").read_text("utf-8").strip()
    for role in ("front", "engine"):
        config = get(site(resources, role), "properties", "functionAppConfig")
        assert isinstance(config, dict)
        assert config["runtime"] == {"name": "python", "version": python}
        assert isinstance(config["scaleAndConcurrency"], dict)
        assert config["scaleAndConcurrency"]["alwaysReady"] == []
        assert config["scaleAndConcurrency"]["maximumInstanceCount"] == 40


@pytest.mark.parametrize("role", ["front", "engine"])
def test_apps_reach_their_hosts_storage_and_the_shared_state_by_identity(role: str) -> None:
    found = settings(deploy(), role)

    for prefix, account, services in (
        ("AzureWebJobsStorage", f"st{role}", ("blob", "queue", "table")),
        ("TURNAROUND_STORAGE", "stengine", ("queue", "table")),
    ):
        assert found[f"{prefix}__credential"] == "managedidentity"
        assert f"id-{role}-" in str(found[f"{prefix}__clientId"])
        for service in services:
            uri = found[f"{prefix}__{service}ServiceUri"]
            assert isinstance(uri, Reference)
            assert account in uri.of
            assert uri.path == f".properties.primaryEndpoints.{service}"
    assert re.fullmatch(r"ClientId=<\S+>;Authorization=AAD", str(found["APPLICATIONINSIGHTS_AUTHENTICATION_STRING"]))


def test_the_package_goes_to_a_container_that_is_made() -> None:
    resources = deploy()
    made = {c.id for c in of_type(resources, "Microsoft.Storage/storageAccounts/blobServices/containers")}
    for role in ("front", "engine"):
        storage = get(site(resources, role), "properties", "functionAppConfig", "deployment", "storage")
        assert isinstance(storage, dict)
        assert storage["type"] == "blobContainer"
        account, container = re.fullmatch(
            r"<(\S+)\.properties\.primaryEndpoints\.blob>(\S+)", str(storage["value"])
        ).groups()  # type: ignore[union-attr]  # no match fails the test
        assert f"{account}/default/{container}" in made
        assert f"st{role}" in account


def test_queues_that_trigger_functions_have_a_poison_queue() -> None:
    made = {queue.body["name"] for queue in of_type(deploy(), "Microsoft.Storage/storageAccounts/queueServices/queues")}

    poison = {str(name) for name in made if str(name).endswith("-poison")}
    assert {name.removesuffix("-poison") for name in poison} == made - poison - {"reset-results"}


def test_tests_tools_and_secrets_stay_out_of_the_package(tmp_path: Path) -> None:
    deployed = [
        "function_app.py",
        "host.json",
        "requirements.txt",
        "policy.toml",
        "windows.toml",
        "functions/poll.py",
        "web/docs/a.html",
    ]
    stays = ["tests/a.py", "sandbox/a.py", "infra/main.bicep", "docs/a.md", "examples/a.json", "cli/main.py", "dev.py"]
    stays += [".venv/bin/python", "local.settings.json", "local.settings.sample.json", "requirements-dev.txt"]
    stays += [".git/config", ".azure/lab/.env", ".sandbox/state.json", "README.md", "functions/__pycache__/a.pyc"]
    for name in deployed + stays:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".funcignore").write_bytes((ROOT / ".funcignore").read_bytes())

    found = package_builder().app_files(tmp_path)  # type: ignore[attr-defined]  # loaded from a file, so untyped

    assert {path.as_posix() for path in found} == set(deployed)


def test_the_apps_own_files_are_deployed_compiled_and_not_tied_to_the_times_that_the_archive_gives_them(
    tmp_path: Path,
) -> None:
    package_builder().copy_app(tmp_path)  # type: ignore[attr-defined]  # loaded from a file, so untyped

    compiled = {path: path.parent / "__pycache__" / f"{path.stem}.cpython-313.pyc" for path in tmp_path.rglob("*.py")}
    assert tmp_path / "shared/settings.py" in compiled
    for file in compiled.values():
        # PEP 552: a hash of the source, which nobody checks.
        assert int.from_bytes(file.read_bytes()[4:8], "little") == 0b01


# One name for one thing


def setting_names(model: type, prefix: str) -> set[str]:
    """The environment names that a pydantic model is filled from, nested ones joined by __."""
    names: set[str] = set()
    for name, about in model.model_fields.items():  # type: ignore[attr-defined]  # a pydantic model
        full = f"{prefix}{name}".upper()
        names.add(full)
        if isinstance(about.annotation, type) and hasattr(about.annotation, "model_fields"):
            names |= setting_names(about.annotation, f"{full}__")
    return names


def test_queue_table_and_setting_names_agree_between_code_sample_settings_and_bicep() -> None:
    from shared.messages import queues
    from shared.settings import Settings

    resources = deploy()
    made = {
        str(queue.body["name"])
        for queue in of_type(resources, "Microsoft.Storage/storageAccounts/queueServices/queues")
    }
    in_code = {queues.REQUESTS, queues.DISPATCH, queues.CONTROL, queues.NOTICES, queues.RESULTS}
    assert {name for name in made if not name.endswith("-poison")} == in_code

    sample = json.loads((ROOT / "local.settings.sample.json").read_text("utf-8"))["Values"]
    (table,) = of_type(resources, "Microsoft.Storage/storageAccounts/tableServices/tables")
    assert sample["TURNAROUND_TABLE"] == table.body["name"]

    known = setting_names(Settings, "TURNAROUND_") | sample.keys()
    for role in ("front", "engine"):
        for name in settings(resources, role):
            if name.startswith("TURNAROUND_"):
                # The connection's parts are the Functions host's own spelling: they follow from its prefix.
                base = name.partition("__")[0] if name.startswith("TURNAROUND_STORAGE__") else name
                assert base in known, f"{name} is set in Azure, but neither the settings nor the sample know it"

    functions = "".join(path.read_text("utf-8") for path in (ROOT / "functions").glob("*.py"))
    placeholders = set(re.findall(r"%(\w+)%", functions))
    assert placeholders <= settings(resources, "engine").keys() & sample.keys()
    assert set(re.findall(r"connection=\"(\w+)\"", functions)) <= {"TURNAROUND_STORAGE"}
