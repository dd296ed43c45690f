//! Which cloud this machine is of, as its firmware says: nobody on the network can.

use std::path::Path;

use super::Cloud;

/// What the kernel read of it.
pub const DMI: &str = "/sys/class/dmi/id";
/// Azure's mark on the chassis of every virtual machine.
const AZURE_CHASSIS: &str = "7783-7084-3265-9085-8269-3286-77";

/// The cloud that the tables in `dmi` name, if it is one of those known here.
pub fn cloud(dmi: &Path) -> Option<Cloud> {
    let read = |name: &str| std::fs::read_to_string(dmi.join(name)).unwrap_or_default().trim().to_owned();
    let (vendor, product) = (read("sys_vendor"), read("product_name"));
    if vendor == "Amazon EC2" || read("bios_version").to_lowercase().contains("amazon") {
        Some(Cloud::Ec2)
    } else if product == "Google Compute Engine" {
        Some(Cloud::Gce)
    } else if read("chassis_asset_tag") == AZURE_CHASSIS {
        Some(Cloud::Azure)
    } else if product.starts_with("OpenStack") || vendor == "OpenStack Foundation" {
        Some(Cloud::OpenStack)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_firmware_names_the_cloud_and_a_laptop_none() {
        for (files, expected) in [
            (&[("sys_vendor", "Amazon EC2\n")][..], Some(Cloud::Ec2)),
            (&[("bios_version", "4.11.amazon\n")], Some(Cloud::Ec2)),
            (&[("product_name", "Google Compute Engine\n"), ("sys_vendor", "Google")], Some(Cloud::Gce)),
            (
                &[("sys_vendor", "Microsoft Corporation"), ("chassis_asset_tag", AZURE_CHASSIS)],
                Some(Cloud::Azure),
            ),
            (&[("sys_vendor", "Microsoft Corporation"), ("product_name", "Virtual Machine")], None),
            (&[("product_name", "OpenStack Nova\n")], Some(Cloud::OpenStack)),
            (&[("sys_vendor", "LENOVO"), ("product_name", "20XW")], None),
            (&[], None),
        ] {
            let directory = tempfile::tempdir().unwrap();
            for (name, text) in files {
                std::fs::write(directory.path().join(name), text).unwrap();
            }
            assert_eq!(cloud(directory.path()), expected, "{files:?}");
        }
    }
}
