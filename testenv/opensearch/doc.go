// Package opensearch runs real OpenSearch and Elasticsearch servers for tests: nodes from Maven Central's jars, each
// with a folder of its own, reached on 127.0.0.1 alone. They know no accounts: WithAccount puts a proxy with TLS
// before one, which asks for a password.
package opensearch
