# SPDX-License-Identifier: Apache-2.0
"""
``make demo``: gated submissions, in a real Airflow, against a simulated cluster.

The account may have five jobs in the queue. It is full at first, so all gates wait. Then it empties, and the jobs
go in, never too many at once. One submission gets no answer; its retry finds the job that is there. Ends with
status 0 if every job was submitted once and the queue was never too long.

After that, jobs go to whichever of two clusters has room.

With ``--access-keys`` the connection holds no token: it obtains them, and each lives for less than the wait.
"""

# What it prints is what it is for.

from __future__ import annotations

import argparse
import contextlib
import math
import re
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from airflow_provider_scnet.testing import SUBMISSION_PATH, Fault, ScnetSimulator
from demo.clusters import DAG as CLUSTERS_DAG
from demo.clusters import ClustersDemo, most_queued, two_clusters
from demo.ending import Ended, ignore_signals, raise_on_signals
from demo.engine import Engine, EngineError

DAG = "scnet_submit"
GATE = "gated_submission.wait_for_room"
DAGS = Path(__file__).parents[1] / "example_dags"

USER = "alice"
GATES = 13
#: "queued < 5" in the DAG: a gate opens where four are queued, so that five are.
MOST_QUEUED = 5
SLOTS = 4
#: Seconds between two requests.
INTERVAL = 3
#: Seconds until the cluster counts a job. It is what claims are for: a gate must not take it for room.
COUNTED_AFTER = 2
#: Seconds that a job runs: long enough that the next gates meet a queue.
RUN_FOR = 12
#: Seconds that a token lives which access keys obtained: much less than the gates wait.
TOKEN_LIFETIME = 12

WAITS = re.compile(r'running \d+, queued [^"\n]*waiting, needs [^"\n]*')


class Demo:
    """
    What is shown while Airflow works.

    :param engine: the Airflow
    :param scnet: the cluster
    """

    def __init__(self, engine: Engine, scnet: ScnetSimulator) -> None:
        self.engine = engine
        self.scnet = scnet
        self.earlier = len(scnet.jobs(USER))
        self.waited = 0.0  # seconds, of all gates together
        self._began = self._looked = time.monotonic()
        self._line = self._reason = ""

    def say(self, text: str) -> None:
        """
        Print a line, with the time in front of it.

        :param text: the line
        """
        print(f"[{time.monotonic() - self._began:3.0f} s] {text}", flush=True)

    def run(self) -> None:
        """Start Airflow, let the DAG run, and tell what happens."""
        self.say(f"starting Airflow {version('apache-airflow')}, which takes about half a minute")
        self.engine.start()
        self.engine.trigger_dag(DAG, {"inputs": GATES})
        self.say(f"{GATES} submissions, each behind its gate; the queue is full with earlier jobs")
        self._looked = time.monotonic()
        self.engine.wait_until(lambda: self._look().count("deferred") == GATES, 90, "the gates")
        self.scnet.order(Fault(drop="before"), path=SUBMISSION_PATH)
        self.scnet.cancel(USER)
        self.say("the earlier jobs end: there is room. SCnet will take the next job without an answer")
        self.engine.wait_until(self._has_ended, 120, "the submissions")

    def _has_ended(self) -> bool:
        self._look()
        return self.engine.run_state(DAG) in ("success", "failed")

    def _look(self) -> list[str | None]:
        """Return the states of the gates; print what has changed."""
        states = self.engine.task_states(DAG)
        for (task, index), state in states.items():
            if state == "failed":
                raise EngineError(f"{task}[{index}] failed:\n{self.engine.log_of(DAG, task, index)}")
        gates = {index: state for (task, index), state in states.items() if task == GATE and index >= 0}
        waiting = [index for index, state in sorted(gates.items()) if state == "deferred"]
        now = time.monotonic()
        self.waited += len(waiting) * (now - self._looked)
        self._looked = now

        passed = list(gates.values()).count("success")
        submitted = len(self.scnet.jobs(USER)) - self.earlier
        cluster = self.scnet.counts(USER)
        line = (
            f"waiting {len(waiting)}, passed {passed}, submitted {submitted}"
            f" | cluster: running {cluster['running']}, queued {cluster['queued']}"
        )
        if line != self._line:
            self._line = line
            self.say(line)
        if waiting:
            # The last in the line: it waits longest and sees most.
            said = WAITS.findall(self.engine.log_of(DAG, GATE, waiting[-1]))
            if said and said[-1] != self._reason:
                self._reason = said[-1]
                print(f"        gate {waiting[-1]}: {self._reason}", flush=True)
        return list(gates.values())

    def summary(self) -> list[str]:
        """Print what came out, and return what is wrong with it."""
        submitted = len(self.scnet.jobs(USER)) - self.earlier
        highest = most_queued(self.scnet.jobs(USER)[self.earlier :])
        requests = len(self.scnet.job_state_requests)
        print(
            f"\n{submitted} of {GATES} jobs submitted; at most {highest} queued, {MOST_QUEUED} are allowed\n"
            "one submission got no answer: its retry found the job, and did not submit it again\n"
            f"{requests} requests; gates that each ask for themselves would have made about"
            f" {self.waited / INTERVAL + GATES:.0f}",
            flush=True,
        )
        states = self.engine.task_states(DAG)
        wrong = [f"{task}[{index}] is {state}" for (task, index), state in states.items() if state != "success"]
        if self.engine.run_state(DAG) != "success":
            wrong.append(f"the DAG run is {self.engine.run_state(DAG)}")
        names = {job.name for job in self.scnet.jobs(USER)[self.earlier :]}
        sent = sum(request.path == SUBMISSION_PATH for request in self.scnet.requests)
        if not len(names) == sent == GATES:
            wrong.append(f"{len(names)} different jobs were submitted by {sent} requests")
        if submitted != GATES:
            wrong.append(f"{submitted} jobs were submitted instead of {GATES}")
        if highest > MOST_QUEUED:
            wrong.append(f"{highest} jobs were in the queue, more than {MOST_QUEUED}")
        if tokens := len(self.scnet.token_requests):
            print(f"{tokens} tokens were obtained with access keys; each lives for {TOKEN_LIFETIME} s", flush=True)
            if tokens < 2:
                wrong.append("no token ended during the wait")
        return wrong


def main() -> int:
    """Run the demo and return its status."""
    parser = argparse.ArgumentParser(prog="python -m demo.run", description="gated submissions in a real Airflow")
    parser.add_argument("--access-keys", action="store_true", help="obtain tokens, which end during the wait")
    access_keys = parser.parse_args().access_keys
    scnet = ScnetSimulator(slots=SLOTS, run_for=RUN_FOR, counted_after=COUNTED_AFTER)
    scnet.add_user(USER, lifetime=TOKEN_LIFETIME if access_keys else None)
    scnet.add_access_keys(USER)
    scnet.submit(USER, SLOTS + MOST_QUEUED, run_for=math.inf)
    with contextlib.ExitStack() as stack:
        stack.enter_context(scnet)
        clusters = stack.enter_context(two_clusters(USER, COUNTED_AFTER))
        for name, cluster in clusters.items():
            # One pair of access keys opens several regions.
            scnet.add_region(name, name, cluster=cluster)
        # The other examples may start by themselves, and would submit as well.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for dag_id in (DAG, CLUSTERS_DAG):
            shutil.copy(DAGS / f"{dag_id}.py", folder)
        engine = Engine(
            folder,
            {
                "AIRFLOW_CONN_SCNET_DEFAULT": (
                    scnet.key_connection_json(USER) if access_keys else scnet.connection_json(USER)
                ),
                **{
                    f"AIRFLOW_CONN_SCNET_{name.upper()}": (
                        scnet.key_connection_json(USER, cluster_id=name)
                        if access_keys
                        else cluster.connection_json(USER)
                    )
                    for name, cluster in clusters.items()
                },
                "SCNET_SIMULATOR_URL": scnet.url,
                "SCNET_POKE_INTERVAL": str(INTERVAL),
            },
        )
        stack.callback(engine.stop)
        # From here on, and first of all: nothing interrupts the end.
        stack.callback(ignore_signals)
        try:
            raise_on_signals()
            demo = Demo(engine, scnet)
            demo.run()
            clusters_demo = ClustersDemo(engine, clusters, USER, demo.say)
            clusters_demo.run()
            if wrong := demo.summary() + clusters_demo.summary():
                raise EngineError("\n".join(wrong) + "\n" + engine.tails())
        except EngineError as error:
            print(f"\nFAILED: {error}", file=sys.stderr)
            return 1
        except Ended as end:
            print(f"\n{end}: stopping Airflow", file=sys.stderr, flush=True)
            return 128 + end.signum
    return 0


if __name__ == "__main__":
    sys.exit(main())
