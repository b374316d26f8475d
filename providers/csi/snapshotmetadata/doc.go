// Package snapshotmetadata is the wire of the Kubernetes SnapshotMetadata service (KEP-3314).
package snapshotmetadata

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative schema.proto
