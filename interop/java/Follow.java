import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/**
 * Follows a stream with Java's own HttpClient, over HTTP/2 where the server has it,
 * and prints every message: java Follow.java &lt;url&gt; &lt;type&gt;... (all types are printed)
 *
 * <p>With SSL_CERT_FILE, that certificate is trusted.
 */
class Follow {
	private final PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
	private String position = "";
	private long retry = 3000;

	public static void main(String[] args) throws Exception {
		new Follow().follow(URI.create(args[0]));
	}

	private void follow(URI url) throws Exception {
		var builder = HttpClient.newBuilder();
		if (System.getenv("SSL_CERT_FILE") != null) {
			builder.sslContext(trusting(Path.of(System.getenv("SSL_CERT_FILE"))));
		}
		var client = builder.build();
		while (true) {
			try {
				connect(client, url);
			} catch (IOException err) {
				System.err.println(err);
			}
			Thread.sleep(retry);
		}
	}

	private void connect(HttpClient client, URI url) throws IOException, InterruptedException {
		var request = HttpRequest.newBuilder(url).header("Accept", "text/event-stream");
		if (!position.isEmpty()) {
			request.header("Last-Event-ID", position);
		}
		var response = client.send(request.build(), BodyHandlers.ofInputStream());
		try (var lines = new BufferedReader(new InputStreamReader(response.body(), StandardCharsets.UTF_8))) {
			if (response.statusCode() != 200) {
				throw new IOException("status " + response.statusCode());
			}
			read(lines);
		}
	}

	private void read(BufferedReader lines) throws IOException {
		String type = "", id = null, line;
		StringBuilder data = null;
		while ((line = lines.readLine()) != null) {
			int colon = line.indexOf(':');
			String name = colon < 0 ? line : line.substring(0, colon);
			String value = colon < 0 ? "" : line.substring(colon + 1);
			value = value.startsWith(" ") ? value.substring(1) : value;
			if (line.isEmpty()) {
				position = id == null ? position : id;
				if (data != null) {
					out.println("{\"type\":" + quote(type) + ",\"id\":" + quote(position) + ",\"data\":" + quote(data) + "}");
				}
				type = "";
				id = null;
				data = null;
			} else if (name.equals("event")) {
				type = value;
			} else if (name.equals("id")) {
				id = value;
			} else if (name.equals("data")) {
				data = data == null ? new StringBuilder() : data.append('\n');
				data.append(value);
			} else if (name.equals("retry")) {
				retry = Long.parseLong(value);
			}
		}
	}

	/** Writes a string of JSON. */
	private static String quote(CharSequence text) {
		var quoted = new StringBuilder("\"");
		text.chars().forEach(c -> {
			if (c < ' ' || c == '"' || c == '\\') {
				quoted.append(String.format("\\u%04x", c));
			} else {
				quoted.append((char) c);
			}
		});
		return quoted.append('"').toString();
	}

	private static SSLContext trusting(Path file) throws Exception {
		var store = KeyStore.getInstance(KeyStore.getDefaultType());
		store.load(null);
		try (var in = Files.newInputStream(file)) {
			store.setCertificateEntry("server", CertificateFactory.getInstance("X.509").generateCertificate(in));
		}
		var factory = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
		factory.init(store);
		var context = SSLContext.getInstance("TLS");
		context.init(null, factory.getTrustManagers(), null);
		return context;
	}
}
