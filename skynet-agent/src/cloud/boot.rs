//! What a cloud tells a machine of itself at boot: user-data, and the attributes or tags that begin with `skynet-`.

use std::net::SocketAddr;

use data_encoding::BASE64;
use skynet_core::member::{Name, Tags, token};

use super::http::{Ask, Verb};
use super::{Cloud, Silence, ec2_token};

/// Attributes or tags of the machine that are asked for, and the settings they are.
pub const KEYS: [(&str, &str); 4] =
    [("skynet-token", "token"), ("skynet-name", "name"), ("skynet-role", "roles"), ("skynet-relay", "relay")];

/// Of user-data, bytes: as much as any of these clouds takes.
const MAX_USER_DATA: usize = 256 << 10;
/// Of a description of the machine, which may hold the user-data.
const MAX_DESCRIPTION: usize = MAX_USER_DATA * 4 / 3 + (64 << 10);

/// What one cloud told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BootData {
    /// Who.
    pub cloud: Cloud,
    /// The user-data as the user wrote them, if there are any.
    pub user_data: Option<String>,
    /// Settings by their names in [`KEYS`]' second column, as far as they are there.
    pub keys: Vec<(&'static str, String)>,
}

impl BootData {
    fn is_empty(&self) -> bool {
        self.user_data.is_none() && self.keys.is_empty()
    }
}

/// Asks one cloud, or all at once: then the first that has something counts, in the order of [`Cloud`], else the first
/// that answered.
pub async fn boot_data(service: SocketAddr, only: Option<Cloud>) -> Option<BootData> {
    let ask = async |cloud| {
        if only.is_some_and(|only| only != cloud) {
            return Err(Silence::None);
        }
        match cloud {
            Cloud::Ec2 => ec2(service).await,
            Cloud::Gce => gce(service).await,
            Cloud::Azure => azure(service).await,
            Cloud::OpenStack => openstack(service).await,
        }
    };
    let all = tokio::join!(ask(Cloud::Ec2), ask(Cloud::Gce), ask(Cloud::Azure), ask(Cloud::OpenStack));
    let all = [(Cloud::Ec2, all.0), (Cloud::Gce, all.1), (Cloud::Azure, all.2), (Cloud::OpenStack, all.3)];
    let mut told = Vec::new();
    for (cloud, answer) in all {
        match answer {
            Ok(data) => told.push(data),
            Err(why) if why.is_strange() => {
                tracing::warn!(cloud = cloud.name(), %why, "metadata service not used")
            }
            Err(why) => tracing::debug!(cloud = cloud.name(), %why, "nothing from the metadata service"),
        }
    }
    let best = told.iter().position(|data| !data.is_empty()).unwrap_or(0);
    (!told.is_empty()).then(|| told.swap_remove(best))
}

/// A value that may be missing: only a plain "not there" is none.
fn optional(answer: Result<String, Silence>) -> Result<Option<String>, Silence> {
    match answer {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(Silence::Status(404)) => Ok(None),
        Err(why) => Err(why),
    }
}

/// A value as the setting has it; a web page is none.
fn value(setting: &'static str, text: &str) -> Result<(&'static str, String), Silence> {
    let text = text.trim();
    let holds = match setting {
        "token" => text.starts_with(token::PREFIX) && text.len() <= token::MAX_TOKEN,
        "name" => text.parse::<Name>().is_ok(),
        "roles" => Tags::new(text.split(',').map(str::trim)).is_ok(),
        _ => text.parse::<SocketAddr>().is_ok(),
    };
    if holds { Ok((setting, text.to_owned())) } else { Err(Silence::Garbage) }
}

/// Each key by a question of its own.
async fn keys(
    ask: impl AsyncFn(String) -> Result<String, Silence>,
    prefix: &str,
) -> Result<Vec<(&'static str, String)>, Silence> {
    let mut found = Vec::new();
    for (key, setting) in KEYS {
        if let Some(text) = optional(ask(format!("{prefix}{key}")).await)? {
            found.push(value(setting, &text)?);
        }
    }
    Ok(found)
}

/// IMDSv2. Tags are there if the instance allows it.
async fn ec2(service: SocketAddr) -> Result<BootData, Silence> {
    let token = ec2_token(service).await?;
    let ask = async |path: String| {
        let get = Ask::new(Verb::Get, &path).header("X-aws-ec2-metadata-token", &token).up_to(MAX_USER_DATA);
        Ok(get.send(service).await?.ok()?.text)
    };
    let user_data = optional(ask("/latest/user-data".to_owned()).await)?;
    let keys = keys(ask, "/latest/meta-data/tags/instance/").await?;
    Ok(BootData { cloud: Cloud::Ec2, user_data, keys })
}

async fn gce(service: SocketAddr) -> Result<BootData, Silence> {
    let attributes = "/computeMetadata/v1/instance/attributes/";
    let ask = async |path: String| {
        let get = Ask::new(Verb::Get, &path).header("Metadata-Flavor", "Google").up_to(MAX_USER_DATA);
        let reply = get.send(service).await?;
        if reply.flavor.as_deref() != Some("Google") {
            return Err(Silence::None);
        }
        Ok(reply.ok()?.text)
    };
    let user_data = optional(ask(format!("{attributes}user-data")).await)?;
    let keys = keys(ask, attributes).await?;
    Ok(BootData { cloud: Cloud::Gce, user_data, keys })
}

/// One description: user-data in base64, tags in a list.
async fn azure(service: SocketAddr) -> Result<BootData, Silence> {
    let path = "/metadata/instance/compute?api-version=2021-02-01&format=json";
    let ask = Ask::new(Verb::Get, path).header("Metadata", "true").up_to(MAX_DESCRIPTION);
    let text = ask.send(service).await?.ok()?.text;
    let compute: serde_json::Value = serde_json::from_str(&text).map_err(|_| Silence::Garbage)?;
    compute.get("vmId").and_then(|id| id.as_str()).ok_or(Silence::None)?;
    let encoded = compute.get("userData").and_then(|data| data.as_str()).unwrap_or_default();
    let decoded = BASE64.decode(encoded.trim().as_bytes()).map_err(|_| Silence::Garbage)?;
    let user_data = String::from_utf8(decoded).map_err(|_| Silence::Garbage)?;
    let tags =
        compute.get("tagsList").and_then(|list| list.as_array()).map(Vec::as_slice).unwrap_or_default();
    let value_of = |key: &str| {
        let tag = tags.iter().find(|tag| tag.get("name").and_then(|n| n.as_str()) == Some(key))?;
        tag.get("value")?.as_str()
    };
    Ok(BootData {
        cloud: Cloud::Azure,
        user_data: Some(user_data).filter(|text| !text.trim().is_empty()),
        keys: known(value_of)?,
    })
}

/// The keys of a list that is there already.
fn known<'a>(value_of: impl Fn(&str) -> Option<&'a str>) -> Result<Vec<(&'static str, String)>, Silence> {
    let there = KEYS.iter().filter_map(|(key, setting)| Some((*setting, value_of(key)?)));
    there.filter(|(_, text)| !text.trim().is_empty()).map(|(setting, text)| value(setting, text)).collect()
}

/// User-data as they are, keys among the machine's properties (`meta`).
async fn openstack(service: SocketAddr) -> Result<BootData, Silence> {
    let ask =
        async |path: &str| Ok(Ask::new(Verb::Get, path).up_to(MAX_USER_DATA).send(service).await?.ok()?.text);
    let text = ask("/openstack/latest/meta_data.json").await?;
    let description: serde_json::Value = serde_json::from_str(&text).map_err(|_| Silence::Garbage)?;
    description.get("uuid").and_then(|id| id.as_str()).ok_or(Silence::None)?;
    let user_data = optional(ask("/openstack/latest/user_data").await)?;
    let meta = description.get("meta");
    let keys = known(|key| meta?.get(key)?.as_str())?;
    Ok(BootData { cloud: Cloud::OpenStack, user_data, keys })
}
