// SPDX-License-Identifier: Apache-2.0
//! The driver `tap`: a TAP device, served by [`crate::user`]. It asks for nothing but /dev/net/tun.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use wolffia_sys::tap::Tap;

use super::{Attached, NetDriver, Unfit};
use crate::{
    settings::Settings,
    user::{self, AttachError, Doors, Ended, LinkSettings, Place, ServeError},
};

/// The only one there is, so far; others will stand above it or below.
const FITNESS: u32 = 100;

/// The driver.
#[derive(Debug)]
pub struct TapDriver;

struct Link(Tap);

impl NetDriver for TapDriver {
    fn name(&self) -> &'static str {
        "tap"
    }

    fn fitness(&self) -> Result<u32, Unfit> {
        let opened = rustix::fs::open(
            "/dev/net/tun",
            OFlags::RDWR | OFlags::CLOEXEC,
            Mode::empty(),
        );
        match opened {
            Ok(_) => Ok(FITNESS),
            Err(errno) => Err(Unfit {
                why: format!("opening /dev/net/tun: {errno}"),
                hint: "load the kernel's module tun (modprobe tun); the device is open to everybody (mode 0666) then",
            }),
        }
    }

    fn attach(&self, place: &Place, settings: &Settings) -> Result<Box<dyn Attached>, AttachError> {
        let link = if settings.configure {
            Some(LinkSettings {
                mtu: settings.mtu,
                mac: settings.mac,
                v4: Some(settings.network4()?),
                v6: settings.network6()?,
            })
        } else {
            None
        };
        let tap = user::open(place, &settings.device, link.as_ref())?;
        Ok(Box::new(Link(tap)))
    }
}

impl Attached for Link {
    fn device(&self) -> &str {
        self.0.name()
    }

    fn serve(self: Box<Self>, settings: &Settings, doors: Doors) -> Result<Ended, ServeError> {
        user::serve(settings, Box::new(self.0), doors)
    }

    fn into_fd(self: Box<Self>) -> OwnedFd {
        self.0.into_fd()
    }
}
