// Front stands before a FerretDB for what it lacks and mongorestore wants. It has the operations of an applyOps
// done one by one, as the commands that FerretDB knows, and takes the option ns from indexes, which MongoDB passes
// over. Everything else goes through as it is.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/bson"
)

// front LISTEN SERVER
func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		client, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer client.Close()
			if err := serve(client); err != nil && !errors.Is(err, io.EOF) {
				log.Print(err)
			}
		}()
	}
}

func serve(client net.Conn) error {
	server, err := net.Dial("tcp", os.Args[2])
	if err != nil {
		return err
	}
	defer server.Close()
	for {
		message, err := read(client)
		if err != nil {
			return err
		}
		answer, err := answerTo(server, message)
		if err != nil {
			return err
		}
		if _, err := client.Write(answer); err != nil {
			return err
		}
	}
}

const (
	headerBytes = 16
	opMsg       = 2013
)

// read takes one message of the wire protocol: its length stands first.
func read(from io.Reader) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(from, length[:]); err != nil {
		return nil, err
	}
	message := make([]byte, binary.LittleEndian.Uint32(length[:]))
	copy(message, length[:])
	_, err := io.ReadFull(from, message[4:])
	return message, err
}

func answerTo(server net.Conn, message []byte) ([]byte, error) {
	id := binary.LittleEndian.Uint32(message[4:])
	switch commandIn(message) {
	case "applyOps":
		return apply(server, id, message)
	case "createIndexes":
		plain, err := plainIndexes(id, message)
		if err != nil {
			return nil, err
		}
		return pass(server, plain)
	}
	return pass(server, message)
}

// body is where the document of a message with one section begins, after flags and the section's kind.
const body = headerBytes + 4 + 1

// commandIn is the name of the command, or empty for a message of another form.
func commandIn(message []byte) string {
	if binary.LittleEndian.Uint32(message[12:]) != opMsg || message[body-1] != 0 {
		return ""
	}
	first, err := bson.Raw(message[body:]).IndexErr(0)
	if err != nil {
		return ""
	}
	return first.Key()
}

func plainIndexes(id uint32, text []byte) ([]byte, error) {
	var command bson.D
	if err := bson.Unmarshal(text[body:], &command); err != nil {
		return nil, err
	}
	for _, field := range command {
		if field.Key != "indexes" {
			continue
		}
		indexes := field.Value.(bson.A)
		for i, index := range indexes {
			indexes[i] = bson.D(slices.DeleteFunc(index.(bson.D), func(e bson.E) bool { return e.Key == "ns" }))
		}
	}
	return message(id, 0, command)
}

func pass(server net.Conn, message []byte) ([]byte, error) {
	if _, err := server.Write(message); err != nil {
		return nil, err
	}
	return read(server)
}

type operation struct {
	Op string   `bson:"op"`
	NS string   `bson:"ns"`
	O  bson.Raw `bson:"o"`
	O2 bson.Raw `bson:"o2"`
}

func apply(server net.Conn, request uint32, text []byte) ([]byte, error) {
	var wanted struct {
		Ops []operation `bson:"applyOps"`
	}
	if err := bson.Unmarshal(text[body:], &wanted); err != nil {
		return nil, err
	}
	for _, op := range wanted.Ops {
		command, err := commandOf(op)
		if err != nil {
			return failure(request, err)
		}
		if command == nil {
			continue
		}
		message, err := message(request, 0, command)
		if err != nil {
			return nil, err
		}
		answer, err := pass(server, message)
		if err != nil {
			return nil, err
		}
		var told struct {
			OK     float64  `bson:"ok"`
			Errors bson.Raw `bson:"writeErrors"`
		}
		if err := bson.Unmarshal(answer[body:], &told); err != nil {
			return nil, err
		}
		if told.OK != 1 || len(told.Errors) > 0 {
			return failure(request, fmt.Errorf("%s in %s: %s", op.Op, op.NS, bson.Raw(answer[body:])))
		}
	}
	return message(request, request, bson.D{{Key: "applied", Value: len(wanted.Ops)}, {Key: "ok", Value: 1.0}})
}

// commandOf does the operation, and can be repeated, as replaying a log must be.
func commandOf(op operation) (bson.D, error) {
	db, collection, _ := strings.Cut(op.NS, ".")
	update := func(q, u any) bson.D {
		return bson.D{{Key: "update", Value: collection}, {Key: "updates", Value: bson.A{bson.D{{Key: "q", Value: q}, {Key: "u", Value: u}, {Key: "upsert", Value: true}}}}, {Key: "$db", Value: db}}
	}
	switch op.Op {
	case "n":
		return nil, nil
	case "i":
		return update(bson.D{{Key: "_id", Value: op.O.Lookup("_id")}}, op.O), nil
	case "u":
		return update(op.O2, op.O.Lookup("$set")), nil // FerretDB's log has all of the document there
	case "d":
		return bson.D{{Key: "delete", Value: collection}, {Key: "deletes", Value: bson.A{bson.D{{Key: "q", Value: op.O}, {Key: "limit", Value: 1}}}}, {Key: "$db", Value: db}}, nil
	}
	return nil, fmt.Errorf("an operation %q is not known", op.Op)
}

func failure(request uint32, err error) ([]byte, error) {
	return message(request, request, bson.D{{Key: "ok", Value: 0.0}, {Key: "errmsg", Value: err.Error()}, {Key: "code", Value: 8}, {Key: "codeName", Value: "UnknownError"}})
}

func message(id, answers uint32, document bson.D) ([]byte, error) {
	content, err := bson.Marshal(document)
	if err != nil {
		return nil, err
	}
	out := make([]byte, body)
	for i, field := range []uint32{uint32(body + len(content)), id, answers, opMsg} {
		binary.LittleEndian.PutUint32(out[4*i:], field)
	}
	return append(out, content...), nil
}
