// SPDX-License-Identifier: Apache-2.0
//! What is put into the test registry: blobs whole and in parts, mounts, manifests; and what is attached to manifests.
//!
//! Sources: OCI distribution-spec 1.1, "Push", "Listing Referrers".

use std::sync::Arc;

use serde_json::{Value, json};
use wolffia_image::Digest;

use super::faults::{Fault, On};
use super::serve::{Answer, Request, document, error};
use super::tokens::parameter;
use super::{Shared, State};
use crate::image_builder::Document;

/// Returns after how many bytes of its body an upload shall break, if it shall.
pub(super) fn cut(shared: &Shared, request: &Request, length: u64) -> Option<u64> {
    let is_upload = request.path.contains("/blobs/uploads/")
        && matches!(request.method.as_str(), "PATCH" | "PUT");
    if !is_upload || length == 0 {
        return None;
    }
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    match shared.state().faults.next(On::Upload, false, length) {
        Some(Fault::Cut { after_bytes }) => u64::try_from(after_bytes.min(length)).ok(),
        _ => None,
    }
}

/// Keeps what came of an upload that broke.
pub(super) fn keep(shared: &Shared, request: &Request) {
    let mut state = shared.state();
    let upload = request.path.rsplit('/').next().unwrap_or_default();
    if let Some(bytes) = state.uploads.get_mut(upload)
        && request.method == "PATCH"
    {
        bytes.extend_from_slice(&request.body);
    }
}

/// Answers what is no plain reading.
pub(super) fn serve(
    shared: &Shared,
    state: &mut State,
    repository: &str,
    name: &str,
    request: &Request,
) -> Option<Answer> {
    let is = |method: &str, divider: &str| {
        request.method == method && request.path.contains(&format!("{repository}{divider}"))
    };
    if is("GET", "/referrers/") {
        return Some(referrers(shared, state, name, request));
    }
    if is("PUT", "/manifests/") {
        return Some(manifest(shared, state, repository, name, request));
    }
    if is("POST", "/blobs/uploads/") {
        return Some(begin(state, repository, request));
    }
    if !request.path.contains("/blobs/uploads/") {
        return None;
    }
    let location = format!("/v2/{repository}/blobs/uploads/{name}");
    let Some(bytes) = state.uploads.get_mut(name) else {
        return Some(error(
            On::Upload,
            404,
            r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}"#,
        ));
    };
    let status = match request.method.as_str() {
        "GET" => 204,
        "PATCH" => {
            let first = request.content_range.as_deref();
            let first = first.and_then(|range| range.split('-').next()?.parse().ok());
            if first == Some(bytes.len()) {
                bytes.extend_from_slice(&request.body);
                202
            } else {
                416
            }
        }
        "PUT" => {
            bytes.extend_from_slice(&request.body);
            let whole = std::mem::take(bytes);
            state.uploads.remove(name);
            let said = parameter(&request.query, "digest").and_then(|it| Digest::parse(&it).ok());
            let digest = Digest::of(&whole);
            if said != Some(digest) {
                return Some(error(
                    On::Upload,
                    400,
                    r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#,
                ));
            }
            state.blobs.insert(digest, whole.into());
            state.owned.insert((repository.to_owned(), digest));
            201
        }
        _ => 405,
    };
    let received = state.uploads.get(name).map_or(0, Vec::len);
    let mut answer = error(On::Upload, status, "");
    answer.headers.push(("Location", location));
    answer
        .headers
        .push(("Range", format!("0-{}", received.saturating_sub(1))));
    Some(answer)
}

fn begin(state: &mut State, repository: &str, request: &Request) -> Answer {
    let mount = parameter(&request.query, "mount").and_then(|it| Digest::parse(&it).ok());
    let from = parameter(&request.query, "from");
    if let (Some(digest), Some(from)) = (mount, from)
        && state.owned.contains(&(from, digest))
    {
        state.owned.insert((repository.to_owned(), digest));
        return error(On::Upload, 201, "");
    }
    state.uploads_begun += 1;
    let name = format!("upload-{}", state.uploads_begun);
    let mut answer = error(On::Upload, 202, "");
    answer
        .headers
        .push(("Location", format!("/v2/{repository}/blobs/uploads/{name}")));
    state.uploads.insert(name, Vec::new());
    answer
}

fn manifest(
    shared: &Shared,
    state: &mut State,
    repository: &str,
    name: &str,
    request: &Request,
) -> Answer {
    let found = Document {
        media_type: request.content_type.clone(),
        bytes: request.body.clone().into(),
    };
    let digest = found.digest();
    if Digest::parse(name).is_ok_and(|said| said != digest) {
        return error(
            On::Manifest,
            400,
            r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#,
        );
    }
    let value: Value = serde_json::from_slice(&found.bytes).unwrap_or_default();
    let parts = value["layers"].as_array().into_iter().flatten();
    for part in parts.chain([&value["config"]]) {
        let digest = part["digest"]
            .as_str()
            .and_then(|it| Digest::parse(it).ok());
        let missing = |digest: &Digest| !state.owned.contains(&(repository.to_owned(), *digest));
        if digest.as_ref().is_some_and(missing) {
            return error(
                On::Manifest,
                400,
                r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}"#,
            );
        }
    }
    if Digest::parse(name).is_err() {
        state
            .tags
            .insert(format!("{repository}:{name}"), found.clone());
    }
    state.documents.insert(digest, found);
    let mut answer = error(On::Manifest, 201, "");
    if shared.options.referrers
        && let Some(subject) = value["subject"]["digest"].as_str()
    {
        answer.headers.push(("OCI-Subject", subject.to_owned()));
    }
    answer
}

fn referrers(shared: &Shared, state: &State, subject: &str, request: &Request) -> Answer {
    if !shared.options.referrers {
        return error(On::Any, 404, "page not found");
    }
    let wanted = parameter(&request.query, "artifactType");
    let listed = state.documents.iter().filter_map(|(digest, found)| {
        let value: Value = serde_json::from_slice(&found.bytes).ok()?;
        if value["subject"]["digest"] != subject {
            return None;
        }
        let kind = match value["artifactType"].as_str() {
            Some(kind) => kind,
            None => value["config"]["mediaType"].as_str()?,
        };
        let fits = wanted.as_ref().is_none_or(|wanted| wanted == kind);
        fits.then(|| {
            json!({
                "mediaType": found.media_type, "digest": digest.to_string(), "size": found.bytes.len(),
                "artifactType": kind, "annotations": value["annotations"],
            })
        })
    });
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": listed.collect::<Vec<_>>(),
    });
    document(
        On::Any,
        "application/vnd.oci.image.index.v1+json",
        Arc::from(index.to_string().as_bytes()),
    )
}
