"""The dashboards: that they are what their code makes, and ask for nothing that nobody sends."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from collections import Counter

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from k8s.dashboards.builder import FOLDER, files
from k8s.dashboards.builder.prometheus import DCGM, DCGM_LABELS, INFO, LABELS
from k8s.dashboards.builder.roads import CUSTOM, DATASOURCE
from mlops.monasca.points import OWN_DIMENSIONS
from mlops.series import METRICS, exposed, metric
from mlops.sinks.statsd import SUFFIXES
from tests.k8s.files import MONASCA, NAMES, PAGES, PROMETHEUS, Query, panels, queries, read, variables, words
from tests.k8s.plugin import asked
from tests.k8s.promql import chosen, named
from tests.k8s.sample import METRIC

CHOICES = {
    "run": "digits",
    "hostname": "node-1",
    "rank": "0",
    "uuid": "GPU-1",
    CUSTOM.name: METRIC,
    DATASOURCE: "of-this-grafana",
    "__rate_interval": "1m",
    "__interval": "30s",
}
"""What a viewer may have chosen; what Grafana itself knows."""
VALID = f"valid.{METRIC}"
HOSTS = {one.host_name: one for one in METRICS.values() if one.host_name}
"""What the hosts' own agents send, by name, with our metric of the same quantity."""
SCRAPED = {"run", "rank", "process", LABELS["hostname"]}
"""The labels that every series of ours has, or may have."""
DCGM_NAMES = {exported: metric(name) for name, exported in DCGM.items()}
UNITS = {
    "W": {"watt"},
    "J": {"joule"},
    "By": {"bytes"},
    "Cel": {"celsius"},
    "Hz": {"hertz"},
    "s": {"s"},
    "/s": {"suffix:/s"},
    "": {"none", "sci"},
}
"""Grafana's words for units; those for percentages depend on the data source."""


def of_monasca(target: dict[str, str]) -> tuple[str, str]:
    """The metric of a target, and which of a summary's values it is, if one."""
    name = chosen(target["metric"], CHOICES)
    for suffix in filter(None, SUFFIXES):
        if name.removesuffix(suffix) in METRICS and name.endswith(suffix):
            return name.removesuffix(suffix), suffix
    return name, ""


def by_prometheus() -> dict[str, str]:
    """Our metrics by the names that Prometheus is shown."""
    return {exposed(name).name: name for name in (*METRICS, VALID)}


def of_prometheus(query: Query) -> str:
    """The one metric of an expression."""
    (name,) = named(chosen(query.target["expr"], CHOICES)).metrics
    return name


# -- what is committed ----------------------------------------------------------------------------


def test_the_committed_files_are_what_the_code_makes() -> None:
    """Byte for byte, with none left over; `make dashboards` writes them anew."""
    made = {str(path): text for path, text in files().items()}
    there = {str(path.relative_to(FOLDER)): path.read_text("utf-8") for path in FOLDER.rglob("*.json")}
    assert sorted(there) == sorted(f"{page}.json" for page in PAGES)
    assert there == made, "run `make dashboards` and look at the difference"


def test_nothing_in_them_changes_by_itself() -> None:
    """No time, version or id of an installation: they are the same on every day and in every Grafana."""
    for page in PAGES:
        content = read(page)
        assert content.keys().isdisjoint({"id", "version", "iteration", "gnetId"})
        assert content["uid"] == f"mlops-{page.partition('/')[2]}-{page.partition('/')[0]}"
        assert len(content["uid"]) <= 40
        numbers = [panel["id"] for panel in content["panels"]]
        assert len(set(numbers)) == len(numbers)
        assert not re.search(r"\b20\d\d-\d\d", json.dumps(content))


def test_the_sdk_knows_every_field() -> None:
    """Read into the types of Grafana's schema and written again, nothing is lost."""
    for page in PAGES:
        content = read(page)
        again = json.loads(json.dumps(Dashboard.from_json(content), cls=JSONEncoder))
        assert again == content


def test_no_data_source_is_hard_coded() -> None:
    """Every panel, query and variable asks the data source that the viewer chose, of the type that it is made for."""
    for page in PAGES:
        kind = {"monasca": "monasca-datasource", "prometheus": "prometheus"}[page.partition("/")[0]]
        expected = {"type": kind, "uid": f"${{{DATASOURCE}}}"}
        assert variables(page)[DATASOURCE]["type"] == "datasource"
        assert variables(page)[DATASOURCE]["query"] == kind
        for query in queries(page):
            assert query.panel["datasource"] == query.target["datasource"] == expected, query
        for variable in variables(page).values():
            assert variable["type"] != "query" or variable["datasource"] == expected


# -- what they ask for ----------------------------------------------------------------------------


def test_every_metric_asked_of_monasca_is_one_that_is_sent(sent: dict[str, set[str]]) -> None:
    """By the run on one of its two roads, or by the agent of the host; summaries' values by the statsd road alone."""
    for page in MONASCA:
        for query in queries(page):
            name, suffix = of_monasca(query.target)
            assert name in (sent.keys() | HOSTS.keys()), query
            assert name in METRICS or name in HOSTS or name == VALID, query
            assert not suffix or name in sent, query


def test_every_metric_asked_of_prometheus_is_one_that_is_shown(sent: dict[str, set[str]]) -> None:
    """By the run, under the name that `exposed` gives it, or by NVIDIA's exporter; in variables too."""
    known = {exposed(name).name for name in sent} | {INFO}
    for page in PROMETHEUS:
        for query in queries(page):
            assert of_prometheus(query) in known | DCGM_NAMES.keys(), query
        for variable in variables(page).values():
            if variable["type"] == "query" and variable["query"].startswith("label_values"):
                selector = variable["query"].removeprefix("label_values(").rpartition(",")[0]
                assert named(chosen(selector, CHOICES)).metrics.keys() <= known


@pytest.mark.parametrize("pages", [MONASCA, PROMETHEUS], ids=["monasca", "prometheus"])
def test_every_metric_is_on_a_panel(pages: tuple[str, ...]) -> None:
    """A new metric is given its panel."""
    if pages is MONASCA:
        shown = {of_monasca(query.target)[0] for page in pages for query in queries(page)}
    else:
        shown = {by_prometheus().get(of_prometheus(query), "") for page in pages for query in queries(page)}
    assert METRICS.keys() <= shown


def test_every_dimension_asked_of_monasca_exists(sent: dict[str, set[str]]) -> None:
    """What filters, groups and names lines is a dimension of every run, or of that metric."""
    for page in MONASCA:
        for query in queries(page):
            name, _ = of_monasca(query.target)
            there = {"hostname", "uuid"} if name in HOSTS else {*OWN_DIMENSIONS, *sent[name]}
            keys = {entry["key"] for entry in query.target["dimensions"]}
            assert keys <= there, query
            assert set(re.findall(r"@(\w+)", query.target["alias"])) <= keys, query


def test_lines_of_monasca_are_named_after_what_tells_them_apart() -> None:
    """The plugin puts filters into the alias first; so a name never has a filtered dimension, but for one value."""
    for page in MONASCA:
        for query in queries(page):
            for run in ("one", ["one", "two"]):
                choices = {**CHOICES, "hostname": "", "run": run}
                requests = asked(query.target, choices, "2026-01-01T00:00:00Z", 30)
                lines = []
                for request in requests:
                    groups = request.query.get("group_by", "").split(",") if "group_by" in request.query else []
                    lines += [
                        request.line(dict(zip(groups, values, strict=True)))
                        for values in itertools.product(*[[f"{key}-1", f"{key}-2"] for key in groups])
                    ]
                assert len(set(lines)) == len(lines), query
                assert not any("@" in line or "$" in line for line in lines), query


def test_every_label_asked_of_prometheus_exists(sent: dict[str, set[str]]) -> None:
    """What filters, groups and names lines is a label of every run, or of that metric."""
    names = by_prometheus()
    for page in PROMETHEUS:
        for query in queries(page):
            found = named(chosen(query.target["expr"], CHOICES))
            (metric_name,) = found.metrics
            ours = metric_name in names
            there = {*SCRAPED, *sent[names[metric_name]]} if ours else set(DCGM_LABELS.values())
            assert found.metrics[metric_name] | found.by <= there, query
            assert set(re.findall(r"{{(\w+)}}", query.target["legendFormat"])) <= found.by, query


def test_counters_are_never_folded_downwards() -> None:
    """Of what only grows the mean or the least of a pixel says nothing; it is shown as it stands."""
    for page in PROMETHEUS:
        for query in queries(page):
            if of_prometheus(query).endswith("_total"):
                assert query.target["expr"].startswith("max by"), query
    for page in MONASCA:
        for query in queries(page):
            if metric(of_monasca(query.target)[0]).counter:
                assert query.target["aggregator"] == "max", query


def test_masks_are_never_averaged() -> None:
    """The mean of two bit masks is a third state that never was."""
    masks = {"gpu.throttle_reasons", exposed("gpu.throttle_reasons").name}
    found = 0
    for page in PAGES:
        for query in queries(page):
            if {query.target.get("metric"), query.target.get("expr", "").split("(")[-1].split("{")[0]} & masks:
                found += 1
                assert query.target.get("aggregator", "max") == "max"
                assert "avg" not in query.target.get("expr", ""), query
    assert found == len(PAGES)


def test_units_are_those_of_the_metrics() -> None:
    """Watts as watts, and so on; a percentage is one for Monasca and a ratio for Prometheus."""
    for page in PAGES:
        in_wholes = page in PROMETHEUS
        for query in queries(page):
            if in_wholes:
                name = of_prometheus(query)
                unit = DCGM_NAMES[name].unit if name in DCGM_NAMES else metric(by_prometheus()[name]).unit
            else:
                name, suffix = of_monasca(query.target)
                unit = "" if suffix == ".count" else (HOSTS.get(name) or metric(name)).unit
            wanted = {"percentunit" if in_wholes else "percent"} if unit == "%" else UNITS[unit]
            counted = query.panel.get("options", {}).get("reduceOptions", {}).get("calcs") == ["count"]
            assert query.unit in ({"none"} if counted else wanted), f"{page} {query}"


def test_levels_are_in_the_unit_of_what_is_shown() -> None:
    """What is 50 for Monasca is 0.5 for Prometheus, in thresholds and in filters."""

    def levels(page: str, title: str) -> list[float | None]:
        (panel,) = [one for one in panels(page) if one["title"] == title and one["type"] == "timeseries"]
        return [step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]

    assert levels("monasca/training", "Progress lost") == [None, 25.0, 50.0]
    assert levels("prometheus/training", "Progress lost") == [None, 0.25, 0.5]
    assert levels("monasca/gpus", "Temperature")[1:] == levels("prometheus/training", "Temperature")[1:] == [80, 87]
    for page, limit in (("monasca/gpus", 5.0), ("prometheus/gpus", 0.05)):
        (idle,) = [panel for panel in panels(page) if panel["title"] == "Held and idle"]
        (only,) = [step["options"] for step in idle["transformations"] if step["id"] == "filterByValue"]
        assert only["filters"][0]["config"] == {"id": "lower", "options": {"value": limit}}


# -- what a viewer sees ---------------------------------------------------------------------------


def test_every_variable_is_there_and_is_used() -> None:
    """No query, title or link names a variable that is not there; none is offered that changes nothing."""
    own = {"all", "__all", "__rate_interval", "__interval", "__field", "__url_time_range"}
    for page in PAGES:
        content = read(page)
        used = set(NAMES.findall("\n".join(words(content))))
        assert used - own == variables(page).keys(), page
        for variable in variables(page).values():
            assert variable["label"]
            assert variable["description"]


def test_every_panel_says_what_to_look_for() -> None:
    """In a sentence or two; and every row and panel has a title, by which one of its kind can be told."""
    for page in PAGES:
        assert all(panel["title"] for panel in read(page)["panels"])
        assert max(Counter((panel["title"], panel["type"]) for panel in panels(page)).values()) == 1
        assert len(read(page)["description"]) > 80
        for panel in panels(page):
            assert len(panel["description"]) >= 20, panel["title"]
            assert panel["description"].rstrip().endswith("."), panel["title"]


def test_colours_never_stand_alone() -> None:
    """Where a colour means something, so does a number, a word or a line."""
    for page in PAGES:
        for panel in panels(page):
            defaults = panel["fieldConfig"]["defaults"]
            if panel["type"] == "timeseries" and "thresholds" in defaults:
                assert defaults["custom"]["thresholdsStyle"] == {"mode": "dashed"}, panel["title"]
            if panel["type"] == "state-timeline":
                assert all(entry["options"]["result"]["text"] for entry in defaults["mappings"])


def test_a_throttle_mask_has_exactly_one_name() -> None:
    """Every mask that the nine reasons can give falls into one state."""
    for page in PAGES:
        (panel,) = [one for one in panels(page) if one["type"] == "state-timeline"]
        ranges = [entry["options"] for entry in panel["fieldConfig"]["defaults"]["mappings"]]
        hits = Counter(sum(one["from"] <= mask <= one["to"] for one in ranges) for mask in range(2**9))
        assert hits == {1: 2**9}


def test_panels_lie_beside_each_other() -> None:
    """None covers another, and none is wider than the page."""
    for page in PAGES:
        content = read(page)
        for group in ([*content["panels"]], *[row["panels"] for row in content["panels"] if row["type"] == "row"]):
            taken: set[tuple[int, int]] = set()
            for panel in group:
                place = panel["gridPos"]
                cells = set(
                    itertools.product(
                        range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
                    )
                )
                assert place["x"] + place["w"] <= 24
                assert not cells & taken, f"{page} {panel['title']}"
                taken |= cells


def test_the_dashboards_of_a_data_source_lead_to_each_other() -> None:
    """By their tag, which is that of the others of the same data source and of no other, with time and variables."""
    for pages in (MONASCA, PROMETHEUS):
        for page in pages:
            (link,) = read(page)["links"]
            assert (link["type"], link["keepTime"], link["includeVars"]) == ("dashboards", True, True)
            tagged = [other for other in PAGES if set(link["tags"]) <= set(read(other)["tags"])]
            assert tagged == list(pages)


def test_a_line_of_all_gpus_leads_to_its_run() -> None:
    """In Prometheus, where lines tell it: to the dashboard of trainings, with the run chosen."""
    linked = [panel for panel in panels("prometheus/gpus") if panel["fieldConfig"]["defaults"].get("links")]
    assert linked
    for panel in linked:
        (link,) = panel["fieldConfig"]["defaults"]["links"]
        assert link["url"].startswith(f"/d/{read('prometheus/training')['uid']}?")
        assert "var-run=${__field.labels.run}" in link["url"]
        assert all("run" in named(chosen(one["expr"], CHOICES)).by for one in panel["targets"])


# -- how they get into a cluster ------------------------------------------------------------------


def test_kustomizations_name_every_dashboard() -> None:
    """Each data source's folder has its files, under names that differ, with the label that Grafana's sidecar wants."""
    names = []
    for source in ("monasca", "prometheus"):
        content = yaml.safe_load((FOLDER / source / "kustomization.yaml").read_text("utf-8"))
        assert content["generatorOptions"]["labels"]["grafana_dashboard"] == "1"
        assert content["generatorOptions"]["disableNameSuffixHash"] is True
        keys = [entry.partition("=") for one in content["configMapGenerator"] for entry in one["files"]]
        assert sorted(file for _, _, file in keys) == sorted(path.name for path in (FOLDER / source).glob("*.json"))
        names += [key for key, _, _ in keys]
    assert len(set(names)) == len(names) == len(PAGES)
    assert yaml.safe_load((FOLDER / "kustomization.yaml").read_text("utf-8"))["resources"] == ["monasca", "prometheus"]


def test_each_fits_what_kubectl_apply_notes() -> None:
    """A client-side apply keeps the whole object in an annotation of at most 256 KiB."""
    for page in PAGES:
        assert len(json.dumps((FOLDER / f"{page}.json").read_text("utf-8"))) < 256 * 1024 - 2048


@pytest.mark.slow
def test_kustomize_makes_config_maps_of_them() -> None:
    """kubectl's own kustomize builds four, whose content is the committed file."""
    done = subprocess.run(
        ["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    made = list(yaml.safe_load_all(done.stdout))
    assert len(made) == len(PAGES)
    for one in made:
        assert (one["kind"], one["metadata"]["labels"]["grafana_dashboard"]) == ("ConfigMap", "1")
        ((name, text),) = one["data"].items()
        _, page, source = name.removesuffix(".json").split("-")
        assert one["metadata"]["name"] == f"mlops-{page}-{source}"
        assert json.loads(text) == read(f"{source}/{page}")
