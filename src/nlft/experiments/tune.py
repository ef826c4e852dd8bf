"""`nlft tune`: from a file to a trained and compared model."""

import json
from functools import partial

from nlft.errors import display_path
from nlft.experiments import stages
from nlft.experiments.arms import record_arm
from nlft.experiments.staged import Staged
from nlft.files import write_whole
from nlft.results.report import Report, advice, differences, table


class Tune(Staged):
    """Sample, judge, build, audit, train by every arm, evaluate."""

    may_change = ("arms", "extra_arms")
    report_name = "tune.json"

    def run(self) -> str:
        """Run what is not done yet; returns the table and what it says. Errors: see `Staged.run_stages`."""
        self.claim()
        work = self.data_stages()
        if self.settings.audit:
            work.append(("audit", "audit.json", self.own_process(stages.audit)))
        arms = self.settings.known_arms()
        for name in self.settings.arms:
            record_arm(arms[name], self.folder / name)
            work.append((arms[name].title, f"{name}/result.json", self.own_process(stages.run_arm, name)))
        if "nlft" in self.settings.arms:
            work.append(("the saliency map", "map.html", partial(stages.export, self.folder)))
        self.run_stages(work)
        return self._told(stages.report(self.folder, self.job()))

    def _told(self, report: Report) -> str:
        told = [*differences(report), *advice(report), *report["notes"]]
        payload = json.dumps({**report, "says": told}, indent=1, ensure_ascii=False)
        write_whole(self.folder / self.report_name, payload.encode())
        shown = [("every answer", self.report_name), ("saliency map", "map.html"), ("audit", "audit.html")]
        paths = [f"{what}: {display_path(self.folder / name)}" for what, name in shown if (self.folder / name).exists()]
        return "\n".join(["", table(report), "", *told, "", *paths])
