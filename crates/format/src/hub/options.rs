//! Where the hub is, where its cache is, and what the user has said about either.

use std::path::PathBuf;

use crate::FormatError;

/// What happens during [`resolve`](super::resolve).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A file is being downloaded. After a resumption `done` begins with what was there already.
    Progress {
        /// Name in the repository.
        file: &'a str,
        /// Bytes there are.
        done: u64,
        /// Bytes there will be.
        total: u64,
    },
    /// Something the user should know, one line.
    Note(&'a str),
}

/// How to reach the hub and its cache. [`from_env`](Self::from_env) reads the variables Hugging Face's own tools read.
#[derive(Clone)]
pub struct HubOptions<'a> {
    /// The hub's address, without a slash at the end. `HF_ENDPOINT`; default `https://huggingface.co`.
    pub endpoint: String,
    /// The cache, with a folder `models--org--name` for each model. `HF_HUB_CACHE`; default `hub` in `HF_HOME`, whose
    /// default is `huggingface` in `XDG_CACHE_HOME` or `~/.cache`.
    pub cache: PathBuf,
    /// Sent to the hub for models that need it. `HF_TOKEN`, else the file `HF_TOKEN_PATH`, by default `token` in `HF_HOME`.
    pub token: Option<String>,
    /// Use the cache alone. `HF_HUB_OFFLINE`.
    pub offline: bool,
    /// How often a broken download is taken up again without having come further.
    pub retries: u32,
    /// Told of progress and of anything unusual.
    pub observer: Option<&'a dyn Fn(Event<'_>)>,
}

impl HubOptions<'_> {
    /// Options from the environment.
    ///
    /// # Errors
    ///
    /// When neither a variable nor the home folder says where the cache is.
    pub fn from_env() -> Result<Self, FormatError> {
        Self::from_lookup(|key| std::env::var(key).ok())
    }

    /// Options from variables that `lookup` gives.
    ///
    /// # Errors
    ///
    /// As [`from_env`](Self::from_env).
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, FormatError> {
        let get = |key: &str| lookup(key).map(|v| v.trim().to_string()).filter(|v| !v.is_empty());
        let home = || get("HOME").or_else(|| get("USERPROFILE")).map(PathBuf::from);
        let hf_home = get("HF_HOME").map(PathBuf::from).or_else(|| {
            let cache = get("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(home()?.join(".cache")))?;
            Some(cache.join("huggingface"))
        });
        let in_home = |name: &str| hf_home.as_ref().map(|folder| folder.join(name));
        let cache =
            get("HF_HUB_CACHE").map(PathBuf::from).or_else(|| in_home("hub")).ok_or_else(|| FormatError::Hub {
                spec: "hub".to_string(),
                reason: "there is no home folder for the cache: set HF_HOME".to_string(),
            })?;
        let token = get("HF_TOKEN").or_else(|| {
            let file = get("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| in_home("token"))?;
            let token = std::fs::read_to_string(file).ok()?.trim().to_string();
            (!token.is_empty()).then_some(token)
        });
        let yes = |v: String| matches!(v.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on");
        let endpoint = get("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_string());
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_string(),
            cache,
            token,
            offline: get("HF_HUB_OFFLINE").is_some_and(yes),
            retries: 5,
            observer: None,
        })
    }

    pub(super) fn tell(&self, event: Event<'_>) {
        if let Some(observer) = self.observer {
            observer(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<HubOptions<'static>, FormatError> {
        HubOptions::from_lookup(|key| {
            variables.iter().find(|(name, _)| *name == key).map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn the_cache_is_where_other_tools_have_it() {
        for (variables, cache) in [
            (&[("HOME", "/u")][..], "/u/.cache/huggingface/hub"),
            (&[("USERPROFILE", "/u")], "/u/.cache/huggingface/hub"),
            (&[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HOME", "/u"), ("HF_HOME", "/h")], "/h/hub"),
            (&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")], "/c"),
            (&[("HOME", "/u"), ("HF_HOME", " ")], "/u/.cache/huggingface/hub"),
        ] {
            assert_eq!(with(variables).unwrap().cache, Path::new(cache), "{variables:?}");
        }
        assert!(with(&[]).err().unwrap().to_string().contains("HF_HOME"));
    }

    #[test]
    fn endpoint_and_offline() {
        let plain = with(&[("HOME", "/u")]).unwrap();
        assert_eq!((plain.endpoint.as_str(), plain.offline), ("https://huggingface.co", false));
        let other = with(&[("HOME", "/u"), ("HF_ENDPOINT", "http://mirror/"), ("HF_HUB_OFFLINE", "True")]).unwrap();
        assert_eq!((other.endpoint.as_str(), other.offline), ("http://mirror", true));
        assert!(!with(&[("HOME", "/u"), ("HF_HUB_OFFLINE", "0")]).unwrap().offline);
    }

    #[test]
    fn the_token_is_a_variable_or_a_file() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().to_str().unwrap();
        assert_eq!(with(&[("HF_HOME", path)]).unwrap().token, None);
        std::fs::write(home.path().join("token"), "from-file\n").unwrap();
        assert_eq!(with(&[("HF_HOME", path)]).unwrap().token.as_deref(), Some("from-file"));
        assert_eq!(with(&[("HF_HOME", path), ("HF_TOKEN", "t")]).unwrap().token.as_deref(), Some("t"));
        let elsewhere = home.path().join("token");
        let elsewhere = [("HF_HOME", "/none"), ("HF_TOKEN_PATH", elsewhere.to_str().unwrap())];
        assert_eq!(with(&elsewhere).unwrap().token.as_deref(), Some("from-file"));
        std::fs::write(home.path().join("token"), "\n").unwrap();
        assert_eq!(with(&[("HF_HOME", path)]).unwrap().token, None);
    }
}
