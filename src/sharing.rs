//! Which remote a command uses, if any: from the command line, the environment, or the project's settings.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use okapi_remote::{
    AUTHORIZATION, AUTHORIZATION_HOST, Address, Limits, Options, Remote, RemoteError,
};

use crate::cli::RemoteArgs;
use crate::env_vars;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::settings::{self, RemoteSettings};

/// What variables that services and their clients read begin with.
const SERVICES: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];

/// The remote of a command that can do without: what cannot be opened is warned of.
pub(crate) fn open_if_asked(
    arguments: &RemoteArgs,
    root: &Path,
    warn: &mut dyn FnMut(String),
) -> Result<Option<Arc<Remote>>, Failure> {
    let Some((address, options)) = choose(arguments, root)? else { return Ok(None) };
    match Remote::open(&address, &options) {
        Ok(remote) => Ok(Some(Arc::new(remote))),
        Err(error @ RemoteError::Address { .. }) => Err(failure(&error, ExitCode::BadUsage)),
        Err(error) => {
            warn(format!("no remote: {error}"));
            Ok(None)
        }
    }
}

/// The address of the remote that a command would write to, if it were asked to; opens nothing.
pub(crate) fn writable(arguments: &RemoteArgs, root: &Path) -> Result<Option<String>, Failure> {
    let chosen = choose(arguments, root)?.filter(|(_, options)| !options.read_only);
    Ok(chosen.map(|(address, _)| address.to_string()))
}

/// The remote of a command that is about it.
pub(crate) fn open(arguments: &RemoteArgs, root: &Path) -> Result<Remote, Failure> {
    let Some((address, options)) = choose(arguments, root)? else {
        let hint = format!(
            "name one by --remote, {}, or `remote: {{url: ...}}` in {}",
            env_vars::OKAPI_REMOTE,
            settings::FILE
        );
        return Err(Failure::usage("no remote is named").with_hint(hint));
    };
    Remote::open(&address, &options).map_err(|error| failure(&error, ExitCode::BadUsage))
}

/// The remote by way of which jobs get what they read, on nodes that do not see the store.
pub(crate) struct JobRemote {
    pub(crate) remote: Arc<Remote>,
    /// Variables by which nodes reach it, with their values.
    pub(crate) env: Vec<(String, String)>,
    /// How long a request may take that moves nothing.
    pub(crate) timeout: Duration,
}

/// The remote for jobs, if one is named that may be written. Such a remote is never set aside: work waits for it.
pub(crate) fn for_jobs(arguments: &RemoteArgs, root: &Path) -> Result<Option<JobRemote>, Failure> {
    let Some((address, options)) = choose(arguments, root)? else { return Ok(None) };
    if options.read_only {
        return Ok(None);
    }
    let timeout = options.limits.timeout;
    let named = (env_vars::OKAPI_REMOTE.to_owned(), address.to_string());
    // Nothing that is for anybody else: keys of teachers may have names of the same kind.
    let env = std::iter::once(named).chain(address.variables(&options.environment)).collect();
    Ok(Some(JobRemote { remote: open_for_work(&address, options)?, env, timeout }))
}

/// The same, on the node, which has no settings to read.
pub(crate) fn of_job(timeout: Duration) -> Result<Arc<Remote>, Failure> {
    let Some(named) = env_vars::text(env_vars::OKAPI_REMOTE) else {
        let message = format!("{} names no remote for this job", env_vars::OKAPI_REMOTE);
        return Err(Failure::usage(message));
    };
    let address = Address::parse(&named, Path::new("/"));
    let address = address.map_err(|error| failure(&error, ExitCode::BadUsage))?;
    let options = Options {
        limits: Limits { timeout, ..Limits::default() },
        environment: environment(),
        ..Options::default()
    };
    open_for_work(&address, options)
}

fn open_for_work(address: &Address, mut options: Options) -> Result<Arc<Remote>, Failure> {
    options.limits.failures = u32::MAX;
    let remote = Remote::open(address, &options);
    Ok(Arc::new(remote.map_err(|error| failure(&error, ExitCode::BadUsage))?))
}

/// An error of the remote, for commands that are about it.
pub(crate) fn failure(error: &RemoteError, code: ExitCode) -> Failure {
    let message = error.to_string();
    let failure = match (error, code) {
        (RemoteError::Store(_), _) => Failure::unwritten(message),
        (_, ExitCode::BadUsage) => Failure::usage(message),
        _ => Failure::failed(message),
    };
    failure.with_hint(error.hint().map(str::to_owned))
}

fn choose(arguments: &RemoteArgs, root: &Path) -> Result<Option<(Address, Options)>, Failure> {
    if arguments.no_remote {
        return Ok(None);
    }
    // Settings with a mistake are a mistake, whether or not they are needed.
    let settings = settings::read(root)?.remote;
    let here = Path::new(".");
    let from_environment = || env_vars::text(env_vars::OKAPI_REMOTE);
    let by_user = arguments.remote.clone().or_else(from_environment);
    let named_by_project = by_user.is_none();
    let (named, base) = match by_user {
        Some(named) => (named, std::path::absolute(here).unwrap_or_else(|_| root.to_owned())),
        None => match &settings {
            Some(settings) => (settings.url.clone(), root.to_owned()),
            None => return Ok(None),
        },
    };
    let address =
        Address::parse(&named, &base).map_err(|error| failure(&error, ExitCode::BadUsage))?;
    // What is said of one remote is not said of another.
    let settings = settings.filter(|_| named_by_project);
    let timeout = settings.as_ref().map(|it| Duration::from_secs(it.timeout));
    let limits = Limits::default();
    let options = Options {
        limits: Limits { timeout: timeout.unwrap_or(limits.timeout), ..limits },
        read_only: arguments.remote_read_only
            || settings.as_ref().is_some_and(|it: &RemoteSettings| it.read_only),
        records: arguments.remote_records || settings.as_ref().is_some_and(|it| it.records),
        named_by_project,
        environment: environment(),
    };
    Ok(Some((address, options)))
}

fn environment() -> Vec<(String, String)> {
    let is_wanted = |name: &str| {
        matches!(name, AUTHORIZATION | AUTHORIZATION_HOST)
            || SERVICES.iter().any(|service| name.starts_with(service))
    };
    let all = std::env::vars_os();
    let texts =
        all.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    texts.filter(|(name, value)| is_wanted(name) && !value.is_empty()).collect()
}
