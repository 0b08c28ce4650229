"""What tests/deploy cannot ask of a tool: whether rules, dashboards and the autoscaler's query read metrics that exist.

Apart from tests/deploy because it parses PromQL and JSON. It starts nothing: pages come as files, Prometheus by its URL.

    deploy_check.py alerts                  each alert is explained, has its runbook, and a test in which it fires
    deploy_check.py names PAGE...           every query parses, and reads what is on these /metrics pages
    deploy_check.py compose JSON ENV        a resolved Compose file keeps its promises; a worker's environment goes to ENV
    deploy_check.py manifests YAML          Kubernetes's manifests keep theirs; all of them as JSON, to standard output
    deploy_check.py config RULES TARGET... RABBIT
                                            prometheus.yml with these rules, for these workers and this broker, to standard output
    deploy_check.py panels URL              every query of every dashboard returns data
    deploy_check.py wait URL QUERY          until the query returns something
    deploy_check.py firing URL NAME...      exactly these alerts fire; of ?NAME it does not matter
"""

import json
import pathlib
import re
import sys
import time
import urllib.parse
import urllib.request

import promql_parser as promql
import yaml

DEPLOY = pathlib.Path(__file__).resolve().parent.parent / "deploy"
DOCS = DEPLOY.parent / "docs"
# What Prometheus adds by itself, metrics and the labels of every target.
OWN = {"up", "ALERTS"}
TARGET_LABELS = {"job", "instance", "namespace"}
# Seconds after which something counts as never: longer than any pause that a worker makes by itself.
NEVER = 330


def rules():
    for path in sorted((DEPLOY / "prometheus/rules").glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def dashboards():
    """Title of the panel, query."""
    for path in sorted((DEPLOY / "grafana/dashboards").glob("*.json")):
        dashboard = json.loads(path.read_text())
        panels = dashboard["panels"] + [p for row in dashboard["panels"] for p in row.get("panels", [])]
        for panel in panels:
            for target in panel.get("targets", []):
                yield f"{path.name}: {panel['title']}", filled(target["expr"])
        for note in dashboard["annotations"]["list"]:
            yield f"{path.name}: annotation {note['name']}", filled(note["expr"])
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                query = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
                assert query, f"{path.name}: {variable['definition']}: no label_values(query, label)"
                yield f"{path.name}: variable {variable['name']}", filled(query[1])


def filled(expr):
    """As Grafana asks with every variable at All."""
    expr = re.sub(r"\$(namespace|app|worker)\b", ".*", expr).replace("$__rate_interval", "1m")
    assert "$" not in re.sub(r'"[^"]*"', "", expr), f"an unknown variable in {expr}"
    return expr


def scalers():
    for path in sorted((DEPLOY / "k8s").rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document and document.get("kind") == "ScaledObject":
                for trigger in document["spec"]["triggers"]:
                    yield f"{path.name}: trigger", trigger["metadata"]["query"]


def selectors(expr):
    """Name and matchers of every series that a query reads."""
    if isinstance(expr, promql.VectorSelector):
        yield expr.name, expr.matchers.matchers
    elif isinstance(expr, promql.Call):
        for argument in expr.args:
            yield from selectors(argument)
    else:
        for part in ("vector_selector", "expr", "lhs", "rhs", "param"):
            inner = getattr(expr, part, None)
            if isinstance(inner, promql.Expr):
                yield from selectors(inner)


def page_series(paths):
    """Metric name -> label -> the values that occur."""
    series = {}
    for path in paths:
        text = pathlib.Path(path).read_text()
        for line in text.splitlines():
            # A family that is announced and has no series yet, as RabbitMQ writes it.
            if declared := re.match(r"# TYPE (\w+) (\w+)", line):
                series.setdefault(declared[1], {})
            if sample := re.match(r"(\w+)(?:\{(.*)\})? ", line):
                labels = series.setdefault(sample[1], {})
                for label, value in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', sample[2] or ""):
                    labels.setdefault(label, set()).add(value)
    return series


def names(pages):
    series = page_series(pages)
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    queries = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]
    queries += [*dashboards(), *scalers()]
    faults, read = [], set()
    for where, query in queries:
        try:
            found = list(selectors(promql.parse(query)))
        except ValueError as error:
            faults.append(f"{where}: {query}: {error}")
            continue
        if not found and "vector(" not in query:
            faults.append(f"{where}: {query}: reads no metric")
        for name, matchers in found:
            read.add(name)
            if name in recorded or name in OWN:
                continue
            if name not in series:
                faults.append(f"{where}: there is no metric {name}")
                continue
            for matcher in matchers:
                faults += [f"{where}: {fault}" for fault in matcher_faults(name, matcher, series[name])]
    unread = {r for r in recorded if r not in read}
    faults += [f"{name} is recorded and nobody reads it" for name in sorted(unread)]
    finish(faults, f"{len(queries)} queries read {len(read)} metrics, and all of them exist")


def matcher_faults(name, matcher, labels):
    if matcher.name in TARGET_LABELS:
        return
    if matcher.name not in labels:
        yield f"{name} has no label {matcher.name}"
        return
    # A regular expression is looked at where it is a list of words; queues are named by the configuration.
    words = matcher.value.split("|") if re.fullmatch(r"[\w|]+", matcher.value) else []
    for word in words:
        if word not in labels[matcher.name]:
            yield f"{name} never has {matcher.name}={word!r}"


def alerts():
    tests = "".join(p.read_text() for p in (DEPLOY / "prometheus/tests").glob("*.yml"))
    manuals = {path.name: anchors(path) for path in (DOCS / "operations.md", DOCS / "operations.zh-CN.md")}
    faults, seen = [], set()
    for rule in rules():
        if "alert" not in rule:
            continue
        name, notes = rule["alert"], rule.get("annotations", {})
        seen.add(name)
        faults += [f"{name} has no {key}" for key in ("summary", "meaning", "remedy") if not notes.get(key)]
        if rule.get("labels", {}).get("severity") not in ("page", "ticket"):
            faults.append(f"{name}: severity is page or ticket")
        if notes.get("runbook_url") != f"docs/operations.md#{name.lower()}":
            faults.append(f"{name}: runbook_url is not docs/operations.md#{name.lower()}")
        faults += [f"{manual} has no heading {name}" for manual, there in manuals.items() if name.lower() not in there]
        if f'alertname="{name}"' not in tests:
            faults.append(f"{name} fires in no test")
    for manual, there in manuals.items():
        stale = {a for a in there if a.startswith("dingcard")} - {n.lower() for n in seen}
        faults += [f"{manual} has a heading for {anchor}, which is no alert" for anchor in sorted(stale)]
    finish(faults, f"{len(seen)} alerts are explained, tested and in both runbooks")


def anchors(path):
    return {h.strip().lower() for h in re.findall(r"^#+ (\w+)$", path.read_text(), re.MULTILINE)}


def compose(resolved, environment):
    services = json.loads(pathlib.Path(resolved).read_text())["services"]
    faults = []
    for name, service in services.items():
        if not re.search(r":.*\d", service["image"]) or service["image"].endswith(":latest"):
            faults.append(f"{name}: {service['image']} is not pinned")
        faults += [
            f"{name}: port {port['published']} is not on loopback"
            for port in service.get("ports", [])
            if port.get("host_ip") != "127.0.0.1"
        ]
        for volume in service.get("volumes", []):
            if volume["type"] == "bind" and not pathlib.Path(volume["source"]).exists():
                faults.append(f"{name}: there is no {volume['source']}")
        own_check = service["image"].startswith("dingcard:") and name != "sandbox"  # the image brings it
        if not own_check and "healthcheck" not in service and name != "demo":
            faults.append(f"{name}: no health check")
    if services["worker"]["deploy"]["replicas"] != 2 or services["worker"].get("ports"):
        faults.append("worker: two of them, and no port on the host that they would fight for")
    if seconds(services["worker"]["stop_grace_period"]) <= grace():
        faults.append("worker: stop_grace_period is not longer than shutdown_grace")
    pairs = services["worker"]["environment"].items()
    pathlib.Path(environment).write_text("".join(f"{key}={value}\n" for key, value in pairs))
    finish(faults, f"{len(services)} services")


def seconds(duration):
    """Of Compose's and systemd's way to write it, without hours."""
    found = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s?)?", str(duration))
    return int(found[1] or 0) * 60 + int(found[2] or 0)


def grace():
    return seconds(re.search(r'^shutdown_grace = "(\w+)"', (DEPLOY / "dingcard.toml").read_text(), re.MULTILINE)[1])


def manifests(path):
    documents = list(yaml.safe_load_all(pathlib.Path(path).read_text()))
    kinds = {document["kind"]: document for document in documents}
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    scaled = kinds["ScaledObject"]["spec"]
    faults = []
    if pod["terminationGracePeriodSeconds"] <= grace():
        faults.append("Deployment: terminationGracePeriodSeconds is not longer than shutdown_grace")
    if str(scaled["minReplicaCount"]) == "0" or scaled.get("idleReplicaCount") is not None:
        faults.append("ScaledObject: scales to none")
    if scaled["scaleTargetRef"]["name"] != kinds["Deployment"]["metadata"]["name"]:
        faults.append("ScaledObject: its target is not the Deployment")
    down = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]["policies"]
    if any(p["type"] != "Pods" or p["value"] != 1 or p["periodSeconds"] <= grace() for p in down):
        faults.append("ScaledObject: takes a worker away before the last one has drained")
    if kinds["Service"]["metadata"]["name"] != "dingcard":
        faults.append("Service: its name is the job label that rules and dashboard go by")
    if faults:
        finish(faults, "")
    print(json.dumps(documents))


def config(targets):
    rules_folder, *workers, rabbit = targets
    configuration = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [f"{rules_folder}/*.yml"]
    for job in configuration["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": workers if job["job_name"] == "dingcard" else [rabbit]}]
    print(yaml.safe_dump(configuration))


def ask(url, query):
    with urllib.request.urlopen(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}") as answer:
        return json.load(answer)["data"]["result"]


def wait(url, query):
    deadline = time.monotonic() + NEVER
    while not ask(url, query):
        if time.monotonic() > deadline:
            sys.exit(f"deploy_check: never: {query}")
        time.sleep(0.2)


def panels(url):
    """Waits for data: what a panel shows may take a few scrapes."""
    queries = left = list(dict.fromkeys(dashboards()))
    deadline = time.monotonic() + NEVER
    while left and time.monotonic() < deadline:
        left = [(where, query) for where, query in left if not ask(url, query)]
        time.sleep(0.5 if left else 0)
    faults = [f"{where}: no data: {query}" for where, query in left]
    finish(faults, f"{len(queries)} queries of the dashboards return data")


def firing(url, expected):
    either = {name.removeprefix("?") for name in expected if name.startswith("?")}
    expected = {name for name in expected if name and not name.startswith("?")}
    deadline = time.monotonic() + NEVER
    while True:
        found = {a["metric"]["alertname"] for a in ask(url, 'ALERTS{alertstate="firing"}')}
        if found - either == expected or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    faults = [f"{name} fires" for name in sorted(found - expected - either)]
    faults += [f"{name} does not fire" for name in sorted(expected - found)]
    finish(faults, f"firing: {', '.join(sorted(found)) or 'nothing'}")


def finish(faults, verdict):
    for fault in faults:
        print(f"deploy_check: {fault}", file=sys.stderr)
    if faults:
        sys.exit(1)
    print(verdict)


def main():
    verb, *arguments = sys.argv[1:] or [""]
    match verb:
        case "alerts":
            alerts()
        case "names":
            names(arguments)
        case "compose":
            compose(*arguments)
        case "manifests":
            manifests(*arguments)
        case "config":
            config(arguments)
        case "panels":
            panels(arguments[0])
        case "wait":
            wait(*arguments)
        case "firing":
            firing(arguments[0], arguments[1:])
        case _:
            sys.exit(__doc__)


main()
