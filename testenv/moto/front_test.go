package moto

import (
	"bytes"
	"context"
	"os"
	"testing"
)

func TestXML(t *testing.T) {
	answer, err := parseXML([]byte(`<?xml version="1.0"?><R xmlns="x"><volumeId>vol-1</volumeId><set><item><a>1 &lt; 2</a></item></set></R>`))
	if err != nil {
		t.Fatal(err)
	}
	if answer.value("volumeId") != "vol-1" || answer.value("set", "item", "a") != "1 < 2" {
		t.Errorf("%s", answer)
	}
}

// TestFront starts it twice in a row, and looks what it leaves behind.
func TestFront(t *testing.T) {
	if os.Getenv("MUSTER_LAB") == "off" && os.Getenv("CI") != "true" {
		t.Skip("left out: MUSTER_LAB is off")
	}
	f, err := Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f.Content.WriteVolume("vol-1", 1000, []byte("muster"))
	if !bytes.Equal(f.Content.ReadVolume("vol-1", 1000, 6), []byte("muster")) {
		t.Error("a volume does not hold what was written")
	}
	if err := f.Reset(context.Background()); err != nil {
		t.Error(err)
	}
	if err := f.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(f.dir); !os.IsNotExist(err) {
		t.Errorf("%s is left behind", f.dir)
	}
}
