// Package snapshotmetadata is the wire of the SnapshotMetadata service once more, generated from
// providers/csi/snapshotmetadata/schema.proto: this module does not depend on the product's.
package snapshotmetadata

//go:generate sh -c "sed 's#muster/providers/csi#muster/testenv/csi#' ../../../providers/csi/snapshotmetadata/schema.proto >schema.proto && protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative schema.proto && rm schema.proto"
