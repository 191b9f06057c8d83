# SPDX-License-Identifier: Apache-2.0
"""
What SCnet answers, and the simulator as a test holds it.

The wire is that of the page "查询作业状态统计信息" (query job state statistics) of SCnet's OpenAPI v2. What
it leaves open is answered in the way that is hardest on a client: see :class:`ScnetSimulator`.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from email.utils import formatdate
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote, urlencode

from airflow_provider_scnet.testing.access import Access, RefusedError
from airflow_provider_scnet.testing.clock import SimulatorClock
from airflow_provider_scnet.testing.cluster import Cluster, Job, SubmissionError, Totals
from airflow_provider_scnet.testing.counts import JOB_STATE_PATH, QUEUE_COUNTS_PATH, Counts
from airflow_provider_scnet.testing.faults import Fault
from airflow_provider_scnet.testing.history import HISTORY_PATH, History
from airflow_provider_scnet.testing.job_files import FILE_CONTENT_PATH, JobFiles
from airflow_provider_scnet.testing.job_plan import JobEnd, JobPlan, Outcome
from airflow_provider_scnet.testing.job_quirks import JobQuirks
from airflow_provider_scnet.testing.platform import (
    REGION_PATH,
    TOKENS_PATH,
    KeyPair,
    Platform,
    SimulatedRegion,
)
from airflow_provider_scnet.testing.scheduler import LIMITS_PATH, QUEUE_NAMES_PATH, SCHEDULER_PATH, Scheduler
from airflow_provider_scnet.testing.server import Answer, Call, LoopbackServer, dead_first_address
from airflow_provider_scnet.testing.submission import JOB_LIST_PATH, SUBMISSION_PATH, Submission
from airflow_provider_scnet.testing.tokens import TokenBook

CONTROL_PREFIX = "/simulator/"
#: The region that is there from the start.
FIRST_REGION = "11112"


@dataclass(frozen=True)
class Request:
    """
    A request that reached the simulator.

    ``at`` is in seconds on the simulator's clock, ``at_wall`` in epoch seconds. Header names are in lower
    case. ``status`` is the HTTP status of the answer, None if the connection was dropped before it.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    at: float
    at_wall: float
    status: int | None
    body: bytes = b""


class ScnetSimulator:
    """
    A small SCnet on loopback: one cluster with users and queues, what it answers, and the platform before it.

    It answers the counts of jobs, by state and by queue, takes, lists, shows and deletes jobs, shows what they
    wrote, and names its scheduler, the queues and the limit of a user. The platform issues tokens for access keys,
    and describes its regions; a region can be another simulator (:meth:`add_region`).

    It serves while it is used as a context manager, or from :meth:`start` to :meth:`stop`. One that was
    stopped can be started again, on the same port and with the same jobs.

    - A business error comes with HTTP 200, and so does a token that is missing, unknown, revoked or expired
      (code ``10008``, ``token is invalid``).
    - A token counts the jobs of its own user, under the user's name and under its ``computeUser``. Any other
      ``userName``, known to the cluster or not, has **zero jobs, with code "0"**: SCnet does not document
      what it answers, and this is the answer that opens a gate by mistake.
    - Jobs come from :meth:`submit` or ``POST /hpc/openapi/v2/apptemplates/BASIC/BASE/job``, as SCnet
      documents it. One queue is there from the start, ``comp``. A refused submission has the code ``815007``
      and the text of Slurm's sbatch. The list of jobs shows what the counts include, and ended jobs for five
      minutes; the history shows all that have ended. How jobs go is planned with :meth:`plan_jobs`. What SCnet
      does not document of all this can be set: :class:`.JobQuirks`, also later, in ``quirks``.
    - ``order(Fault.lost(taken=True), path=SUBMISSION_PATH)`` takes the next job and never answers;
      ``Fault.refusal("user's limit")`` refuses it with Slurm's text, see :data:`.REFUSALS`.
    - A queue without a job of the user is missing from the counts by queue; without any such queue, ``data``
      is null.
    - A request for tokens has to be signed, by a clock that is at most five minutes off, and is answered with one
      token for each region. Tokens issued earlier are accepted as before, unless ``ends_earlier_tokens``. One
      region is there from the start, ``11112``, with this simulator as its HPC address.

    Some endpoints are the simulator's own, for tasks in other processes, and need no token:

    - ``POST /simulator/jobs`` with ``{"user": "alice", "jobs": 1, "run_for": 30, "queue": "comp"}`` submits;
      it answers ``{"ids": [1]}``, HTTP 429 when the queue is full, HTTP 400 when the call makes no sense.
    - ``DELETE /simulator/jobs?user=alice`` ends all queued and running jobs of a user;
      it answers with what is left, as :meth:`counts` does, and HTTP 400 for an unknown user.
    - ``GET /simulator/jobs?user=alice`` tells all jobs of a user, ended ones too.
    - ``POST /simulator/plans`` with ``{"outcome": "FAILED", "output": "no such file", "times": 1, "name": "run"}``
      plans jobs, with the parameters of :meth:`plan_jobs` and :class:`.JobPlan`.
    - ``GET /simulator/state`` tells what :meth:`state` returns.

    :param port: the port on 127.0.0.1; 0: any free one
    :param slots: how many jobs of the queue ``comp`` run at once, over all users
    :param run_for: seconds that a job runs if its submission does not say
    :param counted_after: seconds from a submission until the reported counts include it
    :param counts_refreshed_every: seconds for which the reported counts stay as they were; 0: they are never stale
    :param quirks: what SCnet does not document of its job interfaces
    :param clock: the cluster's time; by default real time. Delays of answers and the expiry of tokens are in
        real time, whatever the clock.
    :param queue_limit: how many jobs of one user may be queued; None: any number
    :param unknown_user: the code of the answer for a ``userName`` that the cluster does not know: ``"0"``
        with zero jobs, or ``"911009"``
    :param ends_earlier_tokens: whether a request for tokens ends all that the same user had before; SCnet does not
        say what it does
    """

    def __init__(
        self,
        *,
        port: int = 0,
        slots: int = 4,
        run_for: float = 60.0,
        counted_after: float = 0.0,
        counts_refreshed_every: float = 0.0,
        clock: SimulatorClock | None = None,
        quirks: JobQuirks | None = None,
        queue_limit: int | None = None,
        unknown_user: Literal["0", "911009"] = "0",
        ends_earlier_tokens: bool = False,
    ) -> None:
        if unknown_user not in ("0", "911009"):
            raise ValueError(f"unknown_user must be '0' or '911009', not {unknown_user!r}")
        self.cluster = Cluster(
            slots=slots,
            run_for=run_for,
            counted_after=counted_after,
            counts_refreshed_every=counts_refreshed_every,
            queue_limit=queue_limit,
            clock=clock,
        )
        #: What SCnet does not document of its job interfaces; may be replaced at any time.
        self.quirks = quirks or JobQuirks()
        self.clock = self.cluster.clock
        self._port = port
        #: Seconds by which SCnet's clock is ahead of this machine's; with 3600 the clock here is an hour behind.
        self.clock_ahead = 0.0
        self._tokens = TokenBook(self._wall_time)
        own_region = SimulatedRegion(FIRST_REGION, "模拟一区", self._tokens, lambda: self.url)
        self._platform = Platform(own_region, self._wall_time, ends_earlier=ends_earlier_tokens)
        self._server: LoopbackServer | None = None
        self._more: dict[str, LoopbackServer] = {}
        self._faults: dict[tuple[str, str], deque[tuple[Fault, int | None]]] = {}
        self._faults_lock = threading.Lock()
        self._requests: list[Request] = []
        self._recorded = threading.Condition()
        access = Access(self._tokens, self.cluster, unknown_user)
        counts, scheduler = Counts(access, self.cluster), Scheduler(access, self.cluster)
        submission = Submission(access, self.cluster, lambda: self.quirks)
        history = History(access, self.cluster, lambda: self.quirks)
        self._files = JobFiles(access, self.cluster)
        self._routes: dict[str, dict[str, Callable[[Call], Answer]]] = {
            JOB_STATE_PATH: {"GET": counts.answer_by_state},
            QUEUE_COUNTS_PATH: {"GET": counts.answer_by_queue},
            SCHEDULER_PATH: {"GET": scheduler.answer_id},
            QUEUE_NAMES_PATH: {"GET": scheduler.answer_queue_names},
            LIMITS_PATH: {"GET": scheduler.answer_limits},
            SUBMISSION_PATH: {"POST": submission.answer_submission},
            JOB_LIST_PATH: {"GET": submission.answer_list, "DELETE": submission.answer_deletion},
            f"{JOB_LIST_PATH}/": {"GET": submission.answer_detail},
            HISTORY_PATH: {"GET": history.answer},
            FILE_CONTENT_PATH: {"POST": self._files.answer_content},
            TOKENS_PATH: {"POST": self._platform.answer_tokens},
            REGION_PATH: {"GET": self._platform.answer_region},
            f"{CONTROL_PREFIX}jobs": {
                "GET": self._answer_jobs,
                "POST": self._answer_submission,
                "DELETE": self._answer_cancellation,
            },
            f"{CONTROL_PREFIX}plans": {"POST": self._answer_plan},
            f"{CONTROL_PREFIX}state": {"GET": self._answer_state},
        }

    # Serving

    def start(self) -> ScnetSimulator:
        """
        Serve from now on; does nothing if it serves already.

        :raises OSError: if the port is taken
        """
        if self._server is None:
            self._server = LoopbackServer(self._port, self._respond)
            self._port = self._server.port
        return self

    def stop(self) -> None:
        """
        Close the port and all connections, and wait until this is done; does nothing if it is.

        Answers that are being delayed or dripped are broken off.
        """
        for url in list(self._more):
            self.remove_address(url)
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def __enter__(self) -> ScnetSimulator:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port; known once the simulator has been started."""
        if not self._port:
            raise RuntimeError("the simulator gets its port when it is started")
        return self._port

    @property
    def url(self) -> str:
        """The address that a connection's host is to be."""
        return f"http://127.0.0.1:{self.port}"

    def add_address(self) -> str:
        """
        Serve another port, too, until :meth:`remove_address` or :meth:`stop`, and return its address.

        ``add_region(…, hpc_urls=[(scnet.url, True), (scnet.add_address(), False)])`` makes it one of a region.
        """
        server = LoopbackServer(0, self._respond)
        url = f"http://127.0.0.1:{server.port}"
        self._more[url] = server
        return url

    def remove_address(self, url: str) -> None:
        """
        Serve an address that was added no longer: connections to it are refused.

        :param url: the address
        """
        self._more.pop(url).stop()

    # Users and tokens

    def add_user(
        self,
        name: str,
        *,
        token: str | None = None,
        compute_user: str | None = None,
        lifetime: float | None = None,
        expire_time: str | None = None,
    ) -> str:
        """
        Add a user and return its token.

        :param name: the cluster user
        :param token: the token, used as it is; None: one is made
        :param compute_user: the ``computeUser`` in the token, if it is to differ from the name
        :param lifetime: seconds after which tokens made for this user expire, negative for one that has
            expired already; None: a day
        :param expire_time: what its tokens say of their end instead (``expireTime``, epoch milliseconds as text),
            such as ``"0"``; whatever it is, they are accepted until they are revoked
        """
        token = self._tokens.add(
            name, token=token, compute_user=compute_user, lifetime=lifetime, expire_time=expire_time
        )
        self.cluster.add_user(name)
        return token

    def token(self, name: str) -> str:
        """Return the token that the user was given last."""
        return self._tokens.token_of(name)

    def reject_token(self, name: str) -> None:
        """Revoke the user's tokens: from now on they are answered with code ``10008``, as expired ones are."""
        self._tokens.reject(name)

    def renew_token(self, name: str) -> str:
        """Return a new token for the user; the old ones are accepted no longer."""
        return self._tokens.renew(name)

    def add_access_keys(self, name: str = "alice", platform_user: str | None = None) -> KeyPair:
        """
        Make access keys for a user, with ``platform_user``, ``access_key`` and ``secret_key``.

        :param name: the cluster user
        :param platform_user: the login of the platform; None: the user's name
        """
        self._tokens.token_of(name)
        return self._platform.add_keys(name, platform_user or name)

    def add_region(
        self,
        cluster_id: str,
        name: str,
        *,
        hpc_urls: Sequence[tuple[str, bool]] | None = None,
        in_arrears: bool = False,
        user_name: str | None = None,
        cluster: ScnetSimulator | None = None,
    ) -> None:
        """
        Add a region to every account, or replace the one with this id.

        A connection gets to it with ``key_connection(cluster_id=…)`` of this simulator.

        :param cluster_id: its id
        :param name: what people call it
        :param hpc_urls: addresses, each with whether it is enabled; None: the simulator's own
        :param in_arrears: whether the platform issues no token for it
        :param user_name: the cluster user that its description names (``clusterUserInfo.userName``), which may
            differ from the ``computeUser`` of the token; None: the token's own
        :param cluster: the simulator that is this region and accepts its tokens, which are those of its user
            ``user_name``, or of the one with the account's name; None: this simulator
        """
        urls = None if hpc_urls is None else tuple(hpc_urls)
        where = cluster or self
        self._platform.add_region(
            SimulatedRegion(cluster_id, name, where._tokens, lambda: where.url, urls, in_arrears, user_name)
        )

    def connection(self, name: str = "alice", **extra: object) -> dict[str, Any]:
        """
        Return an Airflow connection to this simulator, for a user.

        :param name: the user
        :param extra: entries of the connection's extra, such as ``condition``
        """
        return {
            "conn_type": "scnet",
            "host": self.url,
            "login": name,
            "password": self.token(name),
            "extra": self._extra | extra,
        }

    def key_connection(self, name: str = "alice", **extra: object) -> dict[str, Any]:
        """
        Return an Airflow connection that obtains its token with a user's access keys, which exist.

        :param name: the user
        :param extra: entries of the connection's extra, or other values for the usual ones
        """
        pair = self._platform.keys_of(name)
        keys = {
            "access_key": pair.access_key,
            "secret_key": pair.secret_key,
            "cluster_id": FIRST_REGION,
            "platform_user": pair.platform_user,
            "platform": self.url,
            "portal": self.url,
        }
        return {"conn_type": "scnet", "extra": self._extra | keys | extra}

    @property
    def _extra(self) -> dict[str, object]:
        return {"counted_after": self.cluster.counted_after}

    def key_connection_json(self, name: str = "alice", **extra: object) -> str:
        """Return that connection as JSON, for a variable ``AIRFLOW_CONN_…``."""
        return json.dumps(self.key_connection(name, **extra))

    def connection_json(self, name: str = "alice", **extra: object) -> str:
        """Return the connection as JSON, for a variable ``AIRFLOW_CONN_…``."""
        return json.dumps(self.connection(name, **extra))

    def connection_uri(self, name: str = "alice", **extra: object) -> str:
        """Return the connection as a URI, for a variable ``AIRFLOW_CONN_…``."""
        credentials = f"{quote(name, safe='')}:{quote(self.token(name), safe='')}"
        uri = f"scnet://{credentials}@127.0.0.1:{self.port}/http"
        # Airflow reads what stands in the query as text, unless it goes through "__extra__".
        return f"{uri}?{urlencode({'__extra__': json.dumps(self._extra | extra)})}"

    # Queues and jobs

    def add_queue(self, name: str, *, slots: int = 4, users: Collection[str] | None = None) -> None:
        """
        Add a queue, which Slurm calls a partition, beside ``comp``.

        :param name: its name
        :param slots: how many of its jobs run at once, over all users
        :param users: who may use it; None: everybody
        """
        self.cluster.add_queue(name, slots=slots, users=users)

    def remove_queue(self, name: str) -> None:
        """Remove a queue; its jobs end now."""
        self.cluster.remove_queue(name)

    def set_queue_enabled(self, name: str, enabled: bool) -> None:
        """
        Let a queue take jobs, or none: SCnet calls it ``queueEnabled``. What is there already goes on.

        :param name: the queue
        :param enabled: whether it takes jobs
        """
        self.cluster.set_queue_enabled(name, enabled)

    def set_most_jobs(self, user: str, jobs: int | None) -> None:
        """
        Allow a user so many jobs, queued and running; SCnet calls it ``userMaxSubmitJob``.

        :param user: the user
        :param jobs: how many; None: any number
        """
        self.cluster.set_most_jobs(user, jobs)

    def submit(
        self,
        user: str,
        jobs: int = 1,
        run_for: float | None = None,
        *,
        queue: str | None = None,
        name: str = "",
        plan: JobPlan | None = None,
    ) -> list[int]:
        """
        Submit jobs of a user, all or none, and return their ids; see :meth:`Cluster.submit`.

        :param user: whose jobs these are
        :param jobs: how many
        :param run_for: seconds that each of them runs (``math.inf``: never ends); None: as the cluster says
        :param queue: the queue; None: the first one there is, ``comp``
        :param name: what the jobs are called
        :param plan: how they go; None: as :meth:`plan_jobs` says
        :raises SubmissionError: if the queue is disabled, or the user may not use it, or would have too many jobs
        """
        return self.cluster.submit(user, jobs, run_for, queue=queue, name=name, plan=plan)

    def plan_jobs(self, plan: JobPlan, *, times: int | None = 1, name: str = "") -> None:
        """
        Say how the next jobs go, whoever submits them, after those planned before.

        :param plan: how they go
        :param times: how many jobs; None: all
        :param name: only jobs whose name has this part
        """
        self.cluster.plan_jobs(plan, times, name)

    def cancel(self, user: str) -> None:
        """End all queued and running jobs of a user now."""
        self.cluster.cancel(user)

    def end_job(self, job_id: int, outcome: Outcome = "COMPLETED", exit_code: str = "", reason: str = "") -> None:
        """
        End a queued or running job now.

        :param job_id: which
        :param outcome: how it ended, in Slurm's words
        :param exit_code: Slurm's ``ExitCode``, such as ``37:0``; empty: what is usual for the outcome
        :param reason: Slurm's ``Reason``; empty: what is usual for the outcome
        :raises LookupError: if there is no such job, or it has ended
        """
        self.cluster.end_job(job_id, JobEnd(outcome, exit_code, reason))

    def requeue_job(self, job_id: int, outcome: Outcome = "NODE_FAIL") -> None:
        """
        Queue a running or ended job again under its id, as Slurm does when a node is lost.

        :param job_id: which
        :param outcome: how its run ended, if it is running
        :raises LookupError: if there is no such job, or it is queued
        """
        self.cluster.requeue_job(job_id, JobEnd(outcome))

    def write_file(self, path: str, text: str) -> None:
        """
        Write a file of the cluster, in place of what is there, such as the output of a job.

        :param path: its absolute path
        :param text: what is in it
        """
        self._files.write(path, text)

    def jobs(self, user: str) -> list[Job]:
        """Return all jobs of a user, ended ones too."""
        return self.cluster.jobs(user)

    def counts(self, user: str, queue: str | None = None) -> dict[str, int]:
        """Return how many jobs of a user are really there, by state; in one queue, or in all."""
        return self.cluster.counts(user, queue)

    def reported(self, user: str, queue: str | None = None) -> dict[str, int]:
        """Return how many jobs of a user are reported now, by state; in one queue, or in all."""
        return self.cluster.reported(user, queue)

    def totals(self, user: str) -> Totals:
        """Return how many jobs a user submitted, was refused, and had at most queued and running."""
        return self.cluster.totals(user)

    def set_counts(self, user: str, queue: str | None = None, **counts: int | None) -> None:
        """
        Pin what is reported for some states of a user (None: report the true count again).

        :param user: whose counts
        :param queue: those of this queue; None: those of all queues together, which do not follow
        :param counts: a number of jobs for any of the states
        """
        self.cluster.set_counts(user, queue, **counts)

    def state(self) -> dict[str, Any]:
        """Return all of it, JSON-native: the clock, the slots, and per user counts, totals and requests."""
        return {
            "now": self.clock.now(),
            "slots": self.cluster.slots,
            "users": {
                user: {
                    "counts": self.counts(user),
                    "reported": self.reported(user),
                    **asdict(self.totals(user)),
                    "requests": len(self.requests_of(user)),
                }
                for user in self.cluster.users
            },
        }

    # For people

    def commands(self, user: str, jobs: int = 1, run_for: float | None = None) -> dict[str, str]:
        """
        Return lines for a shell that use the simulator's own endpoints, by what they do.

        ``submit`` submits jobs, ``cancel`` ends all of them, ``state`` tells what is really there.

        :param user: whose jobs these are
        :param jobs: how many are submitted
        :param run_for: seconds that each of them runs; None: as the cluster says
        """
        control = f"{self.url}{CONTROL_PREFIX}"
        job = {"user": user, "jobs": jobs, "run_for": self.cluster.run_for if run_for is None else run_for}
        query = urlencode({"user": user})
        return {
            "submit": f"curl -s -d {shlex.quote(json.dumps(job))} {control}jobs",
            "cancel": f"curl -s -X DELETE {shlex.quote(f'{control}jobs?{query}')}",
            "state": f"curl -s {control}state",
        }

    # Faults

    def order(self, fault: Fault, times: int | None = 1, path: str = JOB_STATE_PATH, method: str = "") -> None:
        """
        Answer the next requests to an endpoint with a fault, after those ordered before.

        :param fault: what goes wrong
        :param times: how many requests; None: all, until :meth:`clear_faults`
        :param path: the endpoint; default: the job states. One that ends in a slash is all of those below it
            that have no faults of their own
        :param method: only requests with this method, such as ``DELETE``, before those ordered for any
        """
        if times is not None and times < 1:
            raise ValueError(f"times must be 1 or more, not {times!r}")
        with self._faults_lock:
            self._faults.setdefault((method, path), deque()).append((fault, times))

    @contextlib.contextmanager
    def dead_first_address(self) -> Iterator[str]:
        """
        Give this simulator a name with two addresses, the first of which never answers; on Linux only.

        It holds in this process, and as long as the context; the value is what a connection's host is to be.
        """
        with dead_first_address(self.port):
            yield f"http://localhost:{self.port}"

    def clear_faults(self) -> None:
        """Forget the faults that were ordered; answers already on their way are not touched."""
        with self._faults_lock:
            self._faults.clear()

    # The record

    @property
    def requests(self) -> list[Request]:
        """All requests so far, to any path but the simulator's own, in the order of their arrival."""
        with self._recorded:
            return list(self._requests)

    @property
    def job_state_requests(self) -> list[Request]:
        """The requests to the job-state endpoint."""
        return [request for request in self.requests if request.path == JOB_STATE_PATH]

    @property
    def token_requests(self) -> list[Request]:
        """The requests for tokens."""
        return [request for request in self.requests if request.path == TOKENS_PATH]

    @property
    def region_requests(self) -> list[Request]:
        """The requests for the description of a region."""
        return [request for request in self.requests if request.path == REGION_PATH]

    def requests_of(self, user: str) -> list[Request]:
        """Return the requests to the job-state endpoint that asked for this ``userName``."""
        return [request for request in self.job_state_requests if request.query.get("userName") == user]

    def wait_for_requests(self, n: int, timeout: float = 30) -> list[Request]:
        """
        Block until ``n`` requests in all have arrived, answered or not, and return all so far.

        :param n: how many, counted since the simulator was made
        :param timeout: seconds
        :raises TimeoutError: if they did not arrive in time
        """
        with self._recorded:
            if not self._recorded.wait_for(lambda: len(self._requests) >= n, timeout):
                raise TimeoutError(f"{len(self._requests)} of {n} requests arrived in {timeout} seconds")
            return list(self._requests)

    # Answering

    def _respond(self, call: Call) -> Answer:
        fault = self._next_fault(call)
        answer = Answer(200, b"") if fault and fault.unheard else self._route(call)
        answer = replace(answer, headers={"Date": formatdate(self._wall_time(), usegmt=True), **answer.headers})
        if fault:
            answer = answer.with_fault(fault)
        if not call.path.startswith(CONTROL_PREFIX):
            self._record(call, answer)
        return answer

    def _route(self, call: Call) -> Answer:
        # An endpoint whose path ends with a name is known by what stands before it.
        methods = self._routes.get(call.path) or self._routes.get(_folder(call.path))
        if methods is None:
            return Answer.envelope("404", "Not Found", status=404)
        if call.method not in methods:
            return Answer.envelope("405", "Method Not Allowed", status=405, headers={"Allow": ", ".join(methods)})
        try:
            return methods[call.method](call)
        except RefusedError as refusal:
            return refusal.answer

    def _next_fault(self, call: Call) -> Fault | None:
        paths = (call.path, _folder(call.path))
        with self._faults_lock:
            ordered = (self._faults.get((method, path)) for path in paths for method in (call.method, ""))
            faults = next(filter(None, ordered), None)
            if faults is None:
                return None
            fault, times = faults[0]
            if times == 1:
                faults.popleft()
            elif times is not None:
                faults[0] = (fault, times - 1)
            return fault

    def _wall_time(self) -> float:
        return time.time() + self.clock_ahead

    def _record(self, call: Call, answer: Answer) -> None:
        status = None if answer.fault.drop == "before" else answer.status
        with self._recorded:
            at = self.clock.now(), time.time()
            self._requests.append(
                Request(call.method, call.path, call.query, call.headers, *at, status, call.body)
            )
            self._recorded.notify_all()

    def _answer_submission(self, call: Call) -> Answer:
        try:
            ids = self.submit(**json.loads(call.body))
        except SubmissionError as error:
            return Answer.envelope(error.code, f"作业提交失败: {error}", status=429)
        except (LookupError, TypeError, ValueError) as error:
            return Answer.envelope("10004", f"参数无效: {error}", status=400)
        return Answer.json({"ids": ids})

    def _answer_plan(self, call: Call) -> Answer:
        try:
            asked = json.loads(call.body)
            options = {name: asked.pop(name) for name in ("times", "name") if name in asked}
            self.plan_jobs(JobPlan(**asked), **options)
        except (AttributeError, TypeError, ValueError) as error:
            return Answer.envelope("10004", f"参数无效: {error}", status=400)
        return Answer.json({})

    def _answer_jobs(self, call: Call) -> Answer:
        try:
            jobs = self.jobs(call.query.get("user", ""))
        except LookupError as error:
            return Answer.envelope("10004", f"参数无效: {error}", status=400)
        shown = ("id", "name", "queue", "state", "submitted_at", "started_at", "ended_at", "stdout", "stderr")
        return Answer.json(
            [
                {name: getattr(job, name) for name in shown}
                | {"outcome": job.end and job.end.outcome, "exit_code": job.end and job.end.exit_code}
                for job in jobs
            ]
        )

    def _answer_cancellation(self, call: Call) -> Answer:
        user = call.query.get("user", "")
        try:
            self.cancel(user)
        except LookupError as error:
            return Answer.envelope("10004", f"参数无效: {error}", status=400)
        return Answer.json(self.counts(user))

    def _answer_state(self, call: Call) -> Answer:
        return Answer.json(self.state())


def _folder(path: str) -> str:
    return path[: path.rfind("/") + 1]
