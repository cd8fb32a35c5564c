//! Slurm by slurmrestd, over TCP or a unix socket, with a Slurm token of the user it is about.

mod accounting;
mod tokens;
mod version;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use async_trait::async_trait;
use gha_slurm_domain::{Clock, LaunchId, ResourceRequest, SlurmJobId, SlurmUser};
use gha_slurm_tls::http;
use reqwest::header::HeaderValue;
use reqwest::{Method, RequestBuilder, StatusCode, redirect};
use secrecy::ExposeSecret;
use serde::de::DeserializeOwned;

use crate::api_version::ApiVersion;
use crate::backend::{
    Cancellation, CannotAct, Found, JobUsage, Numbers, Queue, Slurm, SlurmJob, SlurmUnavailable,
    SubmitError, Survey,
};
use crate::settings::SlurmrestdSettings;
use crate::spelling::{Names, Spelling};
use crate::submission::Submission;
use tokens::Tokens;
use version::{Answer, Job, Named};

/// slurmrestd waits 9 s for a slurmctld that is away; the launcher waits 30 s for us.
const DEADLINE: Duration = Duration::from_secs(20);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// A token that is not accepted is told at once; a slurmctld that is away, in 9 s.
const AT_ONCE: Duration = Duration::from_secs(4);
/// Bytes of JSON that are read sooner than another thread takes over.
const SHORT: usize = 32 * 1024;
/// Bytes that a list may have: a Slurm job takes about 8 kB.
const LISTING: usize = 1024 * 1024 * 1024;
/// Connections that are kept, as many as the launcher has calls under way at once; slurmrestd takes 124 by default.
const KEPT: usize = 16;
/// Not for long: slurmrestd may be behind something that drops what is silent.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// Slurm by slurmrestd.
pub struct RestSlurm {
    settings: SlurmrestdSettings,
    /// Keeps connections.
    kept: reqwest::Client,
    /// Has a connection for each call.
    single: reqwest::Client,
    url: String,
    tokens: Tokens,
    version: Mutex<Option<ApiVersion>>,
    spelling: Spelling,
}

/// What slurmrestd is asked.
enum Call<'a> {
    List,
    /// A list of something else, of Slurm or of its accounting: `slurmdb`.
    Read(&'static str, &'static str),
    /// In Slurm's spelling.
    Submit(&'a Submission, &'a ResourceRequest),
    Cancel(&'a SlurmJobId),
}

/// What it answered.
struct Reply {
    status: StatusCode,
    answer: Answer,
    /// The token may be what it did not like.
    token_doubtful: bool,
}

impl RestSlurm {
    /// With these settings; asks nothing yet. The clock says whether a token has expired.
    pub fn new(settings: SlurmrestdSettings, clock: Clock) -> anyhow::Result<Self> {
        let (url, socket) = match (&settings.url, &settings.socket) {
            (Some(url), None) => (url.to_string(), None),
            (None, Some(socket)) => ("http://localhost".to_owned(), Some(socket.as_path())),
            _ => bail!("slurmrestd: give either url (http://host:port) or socket (a path)"),
        };
        let client = |kept: usize| -> anyhow::Result<reqwest::Client> {
            let mut http = reqwest::Client::builder()
                .timeout(DEADLINE)
                .connect_timeout(CONNECT_DEADLINE)
                .pool_max_idle_per_host(kept)
                .pool_idle_timeout(KEPT_FOR)
                // The token is for it alone.
                .redirect(redirect::Policy::none())
                .no_proxy();
            if let Some(socket) = socket {
                http = http.unix_socket(socket);
            }
            Ok(settings.tls.apply(http, "slurmrestd.tls")?.build()?)
        };
        Ok(Self {
            kept: client(KEPT)?,
            single: client(0)?,
            url,
            tokens: Tokens::new(&settings, clock)?,
            version: Mutex::new(None),
            spelling: Spelling::default(),
            settings,
        })
    }

    /// A slurmrestd that knows neither this version nor a later one answers 404 and does nothing: then it does not matter that
    /// it may take others for whoever asked first on a connection.
    fn http(&self, version: ApiVersion) -> &reqwest::Client {
        if version.authenticates_each_call() {
            &self.kept
        } else {
            &self.single
        }
    }

    /// Asks once, as `user`, in the version that slurmrestd was found to know.
    async fn ask_once(&self, user: &str, call: &Call<'_>) -> Result<Reply, SubmitError> {
        let known = *self.version.lock().unwrap_or_else(PoisonError::into_inner);
        let versions: Vec<ApiVersion> = match self.settings.api_version {
            Some(only) => vec![only],
            // Another slurmrestd may be there now: then the one that was known is not.
            None => known.into_iter().chain(ApiVersion::NEWEST_FIRST).collect(),
        };
        for version in &versions {
            if let Some(reply) = self.ask_in(*version, user, call).await? {
                if known != Some(*version) {
                    self.found(*version);
                }
                return Ok(reply);
            }
        }
        let names: Vec<&str> = versions.iter().map(|v| v.as_str()).collect();
        Err(SlurmUnavailable(format!("slurmrestd knows none of {}", names.join(", "))).into())
    }

    /// `None`: slurmrestd does not know this version. It has done nothing then.
    async fn ask_in(
        &self,
        version: ApiVersion,
        user: &str,
        call: &Call<'_>,
    ) -> Result<Option<Reply>, SubmitError> {
        let (method, part, path) = match call {
            Call::List => (Method::GET, "slurm", "jobs".to_owned()),
            Call::Read(part, path) => (Method::GET, *part, (*path).to_owned()),
            Call::Submit(..) => (Method::POST, "slurm", "job/submit".to_owned()),
            Call::Cancel(id) => (Method::DELETE, "slurm", format!("job/{id}")),
        };
        let url = format!("{}/{part}/{}/{path}", self.url, version.as_str());
        let mut request = self.http(version).request(method, url);
        if let Call::Submit(submission, resources) = call {
            request = request.json(&version.submission(submission, resources, &self.settings));
        }
        let most = match call {
            Call::List | Call::Read(..) => LISTING,
            Call::Submit(..) | Call::Cancel(_) => http::SHORT,
        };
        let asked = Instant::now();
        let Some((status, answer)) = self.send::<Answer>(user, request, most).await? else {
            return Ok(None);
        };
        let token_doubtful = asked.elapsed() < AT_ONCE && answer.may_be_the_token(status.as_u16());
        Ok(Some(Reply {
            status,
            answer,
            token_doubtful,
        }))
    }

    /// Sends as `user`, for an answer of at most `most` bytes. `None`: slurmrestd does not know such a path.
    async fn send<A: DeserializeOwned + Default + Send + 'static>(
        &self,
        user: &str,
        request: RequestBuilder,
        most: usize,
    ) -> Result<Option<(StatusCode, A)>, SubmitError> {
        let token = self.tokens.of(user).await?;
        let mut token = HeaderValue::from_str(token.expose_secret())
            .map_err(|_| SlurmUnavailable(format!("the Slurm token of {user} is none")))?;
        token.set_sensitive(true);
        let unavailable = |error: anyhow::Error| SlurmUnavailable(format!("slurmrestd: {error:#}"));
        let response = request
            .header("X-SLURM-USER-NAME", user)
            .header("X-SLURM-USER-TOKEN", token)
            .send()
            .await
            .map_err(|error| unavailable(error.into()))?;
        let status = response.status();
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let body = http::body(response, most)
            .await
            .map_err(|error| unavailable(error.into()))?;
        let answer = if body.len() < SHORT {
            serde_json::from_slice(&body).map_err(|error| SlurmUnavailable(error.to_string()))
        } else {
            aside(move || Ok(serde_json::from_slice(&body)?)).await
        };
        match answer {
            Ok(answer) => Ok(Some((status, answer))),
            // It says some things in plain text.
            Err(_) if !status.is_success() => Ok(Some((status, A::default()))),
            Err(error) => {
                Err(SlurmUnavailable(format!("slurmrestd answered {status}, {error}")).into())
            }
        }
    }

    /// What accounting has of Slurm jobs. `None`: slurmrestd has no `/slurmdb`.
    async fn accounted(
        &self,
        ids: &[SlurmJobId],
    ) -> Result<Option<Vec<JobUsage>>, SlurmUnavailable> {
        let known = *self.version.lock().unwrap_or_else(PoisonError::into_inner);
        // A list comes before whatever has ended.
        let version = known.ok_or_else(|| SlurmUnavailable("slurmrestd: not asked yet".into()))?;
        let url = format!(
            "{}/slurmdb/{}/{}",
            self.url,
            version.as_str(),
            accounting::query(version, ids)
        );
        let user = self.settings.service_user.as_str();
        let sent = self
            .send(user, self.http(version).get(url), LISTING)
            .await?;
        let Some((status, answer)): Option<(_, accounting::Answer)> = sent else {
            return Ok(None);
        };
        if let Some(failure) = answer.failure() {
            let failure = format!("slurmrestd: {failure}");
            return Err(SlurmUnavailable(failure));
        }
        if !status.is_success() {
            let failure = format!("slurmrestd: accounting: it answered {status}");
            return Err(SlurmUnavailable(failure));
        }
        Ok(Some(answer.usages()))
    }

    fn found(&self, version: ApiVersion) {
        tracing::info!(version = version.as_str(), "slurmrestd answers");
        if !version.signals_the_job_script() && self.settings.signal_before_end_s > 0 {
            tracing::warn!(
                version = version.as_str(),
                "slurmrestd.signal_before_end_s: not possible in this version; Slurm's SIGTERM at the time limit remains"
            );
        }
        *self.version.lock().unwrap_or_else(PoisonError::into_inner) = Some(version);
    }

    /// Asks; once more with a fresh token, where the token may be what is wrong. For what may be asked twice.
    async fn ask(&self, user: &str, call: &Call<'_>) -> Result<Reply, SubmitError> {
        let reply = self.ask_once(user, call).await?;
        if !reply.token_doubtful {
            return Ok(reply);
        }
        self.tokens.forget(user).await;
        self.ask_once(user, call).await
    }

    /// Submits; once more with a fresh token, unless Slurm already has it.
    async fn ask_to_submit(&self, submission: &Submission) -> Result<SlurmJobId, SubmitError> {
        let user = submission.slurm_user.as_str();
        let resources = self.spelt(submission).await?;
        let call = Call::Submit(submission, &resources);
        let mut reply = self.ask_once(user, &call).await?;
        if reply.token_doubtful {
            self.tokens.forget(user).await;
            // slurmctld may have hung up after it, too.
            let queue = self.queue(&Numbers::default()).await?;
            match queue.job_of(submission.launch, &submission.slurm_user) {
                Found::Job(id) => return Ok(id),
                Found::None => reply = self.ask_once(user, &call).await?,
                Found::MayBeHidden => {
                    let mut second = submission.clone();
                    second.waits_for_namesakes = true;
                    let call = Call::Submit(&second, &resources);
                    reply = self.ask_once(user, &call).await?;
                }
            }
        }
        match reply.answer.submitted() {
            Some(id) if reply.status.is_success() => Ok(id
                .to_string()
                .parse()
                .map_err(|_| SlurmUnavailable(format!("slurmrestd answered {id}")))?),
            _ if reply.token_doubtful => Err(reply.unavailable(user).into()),
            _ => Err(SubmitError::from_slurm(
                &reply.answer.own_words(),
                reply.words(),
            )),
        }
    }

    /// Everybody's.
    async fn jobs(&self) -> Result<Vec<Job>, SlurmUnavailable> {
        let user = self.settings.service_user.as_str();
        let reply = self.ask(user, &Call::List).await?;
        // A failure of v0.0.36 has an empty list, too.
        if !reply.status.is_success() {
            return Err(reply.unavailable(user));
        }
        Ok(reply.answer.jobs)
    }

    /// What is asked for, in Slurm's spelling.
    async fn spelt(&self, submission: &Submission) -> Result<ResourceRequest, SlurmUnavailable> {
        // A large future, of a call that is seldom made.
        let ask = Box::pin(self.nodes());
        self.spelling.of(&submission.resources, ask).await
    }

    /// Names that Slurm's nodes have.
    async fn nodes(&self) -> Result<Names, SlurmUnavailable> {
        let user = self.settings.service_user.as_str();
        let reply = self.ask(user, &Call::Read("slurm", "nodes")).await?;
        if reply.status.is_success() {
            Ok(reply.answer.names())
        } else {
            Err(reply.unavailable(user))
        }
    }

    async fn queue(&self, known: &Numbers) -> Result<Queue, SlurmUnavailable> {
        let jobs = self.jobs().await?;
        let known = known.clone();
        aside(move || Ok(version::queue(&jobs, &known))).await
    }

    async fn ask_to_cancel(&self, job: &SlurmJob) -> Result<(), SlurmUnavailable> {
        // Everybody may cancel what is theirs.
        let reply = self.ask(&job.user, &Call::Cancel(&job.id)).await?;
        let words = reply.answer.words();
        let over = words.contains("Invalid job id") || words.contains("already completing");
        if reply.status.is_success() || over {
            Ok(())
        } else {
            Err(reply.unavailable(&job.user))
        }
    }
}

impl RestSlurm {
    /// The version in use; asks when it is not known yet.
    async fn version(&self) -> Result<ApiVersion, SlurmUnavailable> {
        self.jobs().await?;
        let known = *self.version.lock().unwrap_or_else(PoisonError::into_inner);
        known.ok_or_else(|| SlurmUnavailable("slurmrestd: no version".into()))
    }

    /// Names of a list. `None`: slurmrestd has no such list.
    async fn names(
        &self,
        version: ApiVersion,
        call: Call<'_>,
        list: fn(Answer) -> Vec<Named>,
    ) -> Result<Option<Vec<String>>, SlurmUnavailable> {
        let user = self.settings.service_user.as_str();
        match self.ask_in(version, user, &call).await? {
            None => Ok(None),
            Some(reply) if reply.status.is_success() => {
                let names = list(reply.answer).into_iter().map(|named| named.name);
                Ok(Some(names.collect()))
            }
            Some(reply) => Err(reply.unavailable(user)),
        }
    }

    async fn ask_for_configuration(&self) -> Result<String, SlurmUnavailable> {
        let user = self.settings.service_user.as_str();
        let reply = self.ask(user, &Call::Read("slurm", "nodes")).await?;
        if !reply.status.is_success() {
            return Err(reply.unavailable(user));
        }
        let mut lines = reply.answer.kinds_of_nodes();
        let reply = self.ask(user, &Call::Read("slurm", "partitions")).await?;
        if !reply.status.is_success() {
            return Err(reply.unavailable(user));
        }
        lines.extend(reply.answer.lines_of_partitions());
        let known = *self.version.lock().unwrap_or_else(PoisonError::into_inner);
        let version = known.ok_or_else(|| SlurmUnavailable("slurmrestd: no version".into()))?;
        let associations = Call::Read("slurmdb", "associations");
        match self.ask_in(version, user, &associations).await? {
            // slurmrestd runs without accounting.
            None => {}
            Some(reply) if reply.status.is_success() => {
                lines.extend(reply.answer.lines_of_associations());
            }
            // Not a text without them: that would be another configuration.
            Some(reply) => return Err(reply.unavailable(user)),
        }
        let lines: Vec<String> = lines.into_iter().collect();
        Ok(lines.join("\n"))
    }

    async fn look_around(&self) -> Result<Survey, SlurmUnavailable> {
        let version = self.version().await?;
        let partitions = Call::Read("slurm", "partitions");
        let partitions = self.names(version, partitions, Answer::into_partitions);
        let accounts = Call::Read("slurmdb", "accounts");
        let qos = Call::Read("slurmdb", "qos");
        Ok(Survey {
            version: format!("slurmrestd, API {}", version.as_str()),
            partitions: partitions.await.map(Option::unwrap_or_default),
            accounts: self
                .names(version, accounts, |answer| answer.accounts)
                .await,
            qos: self.names(version, qos, |answer| answer.qos).await,
        })
    }
}

impl Reply {
    fn words(&self) -> String {
        let words = self.answer.words();
        if words.is_empty() {
            format!("slurmrestd answered {}", self.status)
        } else {
            words
        }
    }

    fn unavailable(&self, user: &str) -> SlurmUnavailable {
        let token = if self.token_doubtful {
            format!(" (the Slurm token of {user} may be what is wrong)")
        } else {
            String::new()
        };
        SlurmUnavailable(format!("slurmrestd: {}{token}", self.words()))
    }
}

/// Where there is nothing to be refused.
impl From<SubmitError> for SlurmUnavailable {
    fn from(error: SubmitError) -> Self {
        Self(error.to_string())
    }
}

/// The Slurm jobs in what `sacct --json` printed.
pub(super) async fn read_usages(printed: Vec<u8>) -> Result<Vec<JobUsage>, SlurmUnavailable> {
    aside(move || {
        let answer: accounting::Answer = serde_json::from_slice(&printed)?;
        answer
            .failure()
            .map_or(Ok(answer.usages()), |failure| bail!(failure))
    })
    .await
}

/// Does what takes long or blocks, such as reading the JSON of a whole queue, beside the runtime.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Result<T, SlurmUnavailable> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(anyhow::Error::from).flatten();
    done.map_err(|error| SlurmUnavailable(format!("{error:#}")))
}

/// All steps together may take no longer than one.
async fn in_time<T, E: From<SlurmUnavailable>>(
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let none = format!("slurmrestd: no answer within {} s", DEADLINE.as_secs());
    tokio::time::timeout(DEADLINE, work)
        .await
        .unwrap_or_else(|_| Err(SlurmUnavailable(none).into()))
}

#[async_trait]
impl Slurm for RestSlurm {
    async fn submit(&self, submission: &Submission) -> Result<SlurmJobId, SubmitError> {
        in_time(self.ask_to_submit(submission)).await
    }

    async fn list(&self, known: &Numbers) -> Result<Queue, SlurmUnavailable> {
        in_time(self.queue(known)).await
    }

    async fn cancel(
        &self,
        wanted: &[Cancellation],
        known: &Numbers,
    ) -> Result<Vec<LaunchId>, SlurmUnavailable> {
        in_time(async {
            let ours = self.queue(known).await?.wanted_by(wanted);
            for job in &ours {
                self.ask_to_cancel(job).await?;
            }
            Ok(ours.into_iter().map(|job| job.launch).collect())
        })
        .await
    }

    async fn usage(&self, ids: &[SlurmJobId]) -> Result<Option<Vec<JobUsage>>, SlurmUnavailable> {
        in_time(self.accounted(ids)).await
    }

    async fn survey(&self) -> Result<Survey, SlurmUnavailable> {
        in_time(self.look_around()).await
    }

    async fn configuration(&self) -> Result<String, SlurmUnavailable> {
        in_time(self.ask_for_configuration()).await
    }

    async fn may_act_as(&self, user: &SlurmUser) -> Result<String, CannotAct> {
        let reply = in_time(async { self.ask(user.as_str(), &Call::List).await });
        let reply = reply.await?;
        if reply.status.is_success() {
            Ok("by a Slurm token, which Slurm accepts".into())
        } else {
            Err(reply.unavailable(user.as_str()).into())
        }
    }

    async fn preview(&self, submission: &Submission) -> Result<String, SlurmUnavailable> {
        let version = match self.settings.api_version {
            Some(version) => version,
            None => in_time(self.version()).await?,
        };
        let mut shown = submission.clone_to_show();
        shown.script = format!("(the job script, {} bytes)", submission.script.len());
        // Where Slurm does not answer, as it is asked for.
        let spelt = in_time(self.spelt(submission)).await;
        let resources = spelt.unwrap_or_else(|_| submission.resources.clone());
        let body = version.submission(&shown, &resources, &self.settings);
        let body = serde_json::to_string_pretty(&body).unwrap_or_default();
        let version = version.as_str();
        Ok(format!(
            "POST {}/slurm/{version}/job/submit as {}\n{body}\n",
            self.url, submission.slurm_user
        ))
    }

    async fn stop(&self) {}
}
