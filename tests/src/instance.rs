//! What a cloud's metadata service says of one instance, in the cloud's own words.

use data_encoding::BASE64;

use crate::metadata::{ec2_session, header, reply};

/// Whose words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloudKind {
    /// Amazon EC2, by version 2 of the service only.
    Ec2,
    /// Google Compute Engine.
    Gce,
    /// Microsoft Azure.
    Azure,
    /// OpenStack.
    OpenStack,
}

/// What the user gave the instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instance {
    /// User-data.
    pub user_data: Option<String>,
    /// Tags, attributes or properties.
    pub keys: Vec<(String, String)>,
}

impl Instance {
    /// The whole reply to a request.
    pub fn answer(&self, cloud: CloudKind, request: &str) -> String {
        let path = request.split(' ').nth(1).unwrap_or_default();
        match cloud {
            CloudKind::Ec2 => match ec2_session(request) {
                Some(answer) => answer,
                None if path == "/latest/user-data" => found("", self.user_data.as_deref()),
                None => found("", self.key_at(path, "/latest/meta-data/tags/instance/")),
            },
            CloudKind::Gce => {
                let flavor = "Metadata-Flavor: Google\r\n";
                let attributes = "/computeMetadata/v1/instance/attributes/";
                if header(request, "Metadata-Flavor").as_deref() != Some("Google") {
                    return reply("403 Forbidden", flavor, "");
                }
                match path.strip_prefix(attributes) {
                    Some("user-data") => found(flavor, self.user_data.as_deref()),
                    _ => found(flavor, self.key_at(path, attributes)),
                }
            }
            CloudKind::Azure if header(request, "Metadata").as_deref() != Some("true") => {
                reply("400 Bad Request", "", "")
            }
            CloudKind::Azure => {
                let is_compute = path.starts_with("/metadata/instance/compute?api-version=");
                found("", is_compute.then(|| self.azure()).as_deref())
            }
            CloudKind::OpenStack => match path {
                "/openstack" => reply("200 OK", "", "2012-08-10\n2018-08-27\nlatest"),
                "/openstack/latest/user_data" => found("", self.user_data.as_deref()),
                "/openstack/latest/meta_data.json" => found("", Some(&self.openstack())),
                _ => found("", None),
            },
        }
    }

    fn key_at(&self, path: &str, prefix: &str) -> Option<&str> {
        let key = path.strip_prefix(prefix)?;
        self.keys.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn azure(&self) -> String {
        let tags: Vec<_> = self
            .keys
            .iter()
            .map(|(name, value)| serde_json::json!({ "name": name, "value": value }))
            .collect();
        let user_data = BASE64.encode(self.user_data.as_deref().unwrap_or_default().as_bytes());
        serde_json::json!({ "vmId": "02aab8a4-74ef-476e-8182-f6d2ba4166a6", "name": "vm", "tagsList": tags, "userData": user_data })
            .to_string()
    }

    fn openstack(&self) -> String {
        let meta: serde_json::Map<_, _> =
            self.keys.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        serde_json::json!({ "uuid": "d8e02d56-2648-49a3-bf97-6be8f1204f38", "name": "vm", "meta": meta })
            .to_string()
    }
}

fn found(headers: &str, text: Option<&str>) -> String {
    match text {
        Some(text) => reply("200 OK", headers, text),
        None => reply("404 Not Found", headers, ""),
    }
}
