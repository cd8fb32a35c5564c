use crate::support::Service;

#[tokio::test(flavor = "multi_thread")]
async fn the_application_is_served_with_its_page_for_every_path_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("assets")).unwrap();
    std::fs::write(folder.path().join("index.html"), "<html>page").unwrap();
    std::fs::write(folder.path().join("assets/app.js"), "let x;").unwrap();
    let service = Service::start_with(Some(folder.path())).await;
    for (path, text, kind) in [
        ("/", "<html>page", "text/html"),
        ("/users/alice", "<html>page", "text/html"),
        ("/assets/app.js", "let x;", "text/javascript"),
        ("/../../../../etc/passwd", "<html>page", "text/html"),
    ] {
        let answer = service.get_without_token(path).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, text), "{path}");
        let given = answer.headers["content-type"].to_str().unwrap();
        assert!(given.starts_with(kind), "{path}: {given}");
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'self'"), "{policy}");
    }
    let answer = service.get_without_token("/api/nothing").await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.body["code"], "not_found");
}
