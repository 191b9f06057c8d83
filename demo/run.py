# SPDX-License-Identifier: Apache-2.0
"""
``make demo``: gated submissions, in a real Airflow, against a simulated cluster.

The account may have five jobs in the queue. It is full at first, so all gates wait. Then it empties, and the jobs
go in, never too many at once. One submission gets no answer: its task finds the job that is there. One job fails:
its task shows what it wrote, and submits another. Ends with status 0 if every other job was submitted once and the
queue was never too long.

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

from airflow_provider_scnet.testing import SUBMISSION_PATH, Fault, JobPlan, ScnetSimulator
from airflow_provider_scnet.testing.cluster import Job
from demo.clusters import DAG as CLUSTERS_DAG
from demo.clusters import ClustersDemo, most_queued, two_clusters
from demo.ending import Ended, ignore_signals, raise_on_signals
from demo.engine import Engine, EngineError

DAG = "scnet_submit"
GATE, SUBMIT = "gated_submission.wait_for_room", "gated_submission.submit"
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
#: What each job writes, also the one that fails.
OUTPUT = "reading input ... forrtl: severe (24): end-of-file during read, unit 5"
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
        self.scnet.plan_jobs(JobPlan(run_for=RUN_FOR, output=OUTPUT), times=None)
        self.scnet.order(Fault.lost(taken=True), path=SUBMISSION_PATH)
        self.scnet.cancel(USER)
        self.say("the earlier jobs end: there is room. SCnet will take the next job without an answer")
        self.engine.wait_until(self._are_all_in, 180, "the submissions")
        self._let_the_last_job_fail()
        self.engine.wait_until(self._has_ended, 120, "the jobs")

    def _are_all_in(self) -> bool:
        self._look()
        is_queue_empty = not self.scnet.counts(USER)["queued"]
        return is_queue_empty and len(self.scnet.jobs(USER)) - self.earlier == GATES

    def _let_the_last_job_fail(self) -> None:
        job = self.scnet.jobs(USER)[-1]
        self.scnet.end_job(job.id, "FAILED", "24:0")
        self.say(f"all jobs are in. Job {job.id} fails:")
        self.engine.wait_until(
            lambda: OUTPUT in self._log_of_job(job), 60, "what the job wrote in the log of its task"
        )
        told = re.findall(rf"job {job.id} has ended[^\"\n]*|{re.escape(OUTPUT)}", self._log_of_job(job))
        for line in dict.fromkeys(told):
            print(f"        {line}", flush=True)

    def _log_of_job(self, job: Job) -> str:
        logs = (self.engine.log_of(DAG, SUBMIT, index) for index in range(GATES))
        return next((log for log in logs if f"job {job.id} (" in log), "")

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
            f"\n{submitted} jobs submitted by {GATES} tasks; at most {highest} queued, {MOST_QUEUED} are allowed\n"
            "one submission got no answer: its task found the job, and did not submit it again\n"
            "one job failed: the retry of its task submitted another\n"
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
        if not len(names) == sent == submitted == GATES + 1:
            wrong.append(f"{submitted} jobs with {len(names)} names were submitted by {sent} requests")
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
