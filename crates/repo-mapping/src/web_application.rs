//! The built web application.

use std::path::PathBuf;

use actix_files::Files;
use actix_web::dev::{HttpServiceFactory, ServiceRequest, ServiceResponse, fn_service};
use actix_web::http::header::{CACHE_CONTROL, ContentType};
use actix_web::middleware::{DefaultHeaders, from_fn};
use actix_web::{HttpResponse, web};
use anyhow::Context;
use gha_slurm_contract::problem::Problem;
use gha_slurm_service_kit::Strangers;
use gha_slurm_service_kit::strangers::limited;

/// The application loads nothing from elsewhere and is shown in no frame.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; \
     base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Most files for one address in ten seconds: a page takes about ten, and a whole institute may share an address.
const FILES_READ: u32 = 5_000;

/// Its files, and its page for every other path, which it routes itself.
#[derive(Clone)]
pub(crate) struct WebApplication {
    folder: PathBuf,
    page: web::Bytes,
    readers: Strangers,
}

impl WebApplication {
    /// Reads the page; the folder is what `npm run build` made.
    pub(crate) fn load(folder: PathBuf) -> anyhow::Result<Self> {
        let page = std::fs::read(folder.join("index.html")).with_context(|| {
            format!(
                "web.folder: {} holds no index.html; build it with `npm run build` in web/",
                folder.display()
            )
        })?;
        Ok(Self {
            folder,
            page: page.into(),
            readers: Strangers::at_most(FILES_READ),
        })
    }

    pub(crate) fn service(self) -> impl HttpServiceFactory {
        let (page, readers) = (self.page, self.readers);
        let files = Files::new("/", self.folder)
            .index_file("index.html")
            // The build has compressed them: compressing here would cost work for clients that never read the answer.
            .try_compressed()
            .default_handler(fn_service(move |request: ServiceRequest| {
                let answer = HttpResponse::Ok()
                    .content_type(ContentType::html())
                    .insert_header((CACHE_CONTROL, "no-cache"))
                    .body(page.clone());
                let (request, _) = request.into_parts();
                async move { Ok(ServiceResponse::new(request, answer)) }
            }));
        web::scope("")
            .wrap(
                DefaultHeaders::new()
                    // With the file's ETag, so that what has not changed is not sent again.
                    .add((CACHE_CONTROL, "no-cache"))
                    .add(("Content-Security-Policy", CONTENT_SECURITY_POLICY))
                    .add(("X-Content-Type-Options", "nosniff"))
                    .add(("Referrer-Policy", "no-referrer")),
            )
            .wrap(from_fn(move |request, next| {
                limited(readers.clone(), request, next)
            }))
            .service(files)
    }
}

/// The web application: its files and, for every other path, its page.
#[utoipa::path(
    get,
    path = "/{path}",
    operation_id = "webApplication",
    params(("path" = String, Path, description = "A file of the folder `web.folder`, or a view of the application")),
    responses(
        (status = 200, description = "The file, or the page", body = String, content_type = "text/html"),
        (status = 429, description = "Too many requests from this address: try again after Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
    security(())
)]
#[expect(dead_code, reason = "documents what the scope of files answers")]
pub(crate) fn page() {}
