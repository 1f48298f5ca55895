package replica

import (
	"bytes"
	"database/sql/driver"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/tursosync/tursosync/internal/page"
)

// FuzzDeltaEdits: a redo file in which one stretch of bytes was changed, or that was
// cut, is never taken for a whole one, unless it still says the same; and what is read
// of it are pages that were written. Checksums keep FuzzDelta out of here.
func FuzzDeltaEdits(f *testing.F) {
	f.Add(uint8(3), "from", "to", uint16(0), uint16(70), []byte{1})
	f.Add(uint8(2), "", "r", uint16(0), uint16(50), []byte{0xff, 0xff})
	f.Add(uint8(1), "a", "a", uint16(5), uint16(4), []byte{})
	f.Add(uint8(0), "", "", uint16(0), uint16(0), []byte{})
	f.Fuzz(func(t *testing.T, pages uint8, from, to string, cut, at uint16, edit []byte) {
		if len(from) > 100 || len(to) > 100 || pages > 6 {
			return
		}
		path := filepath.Join(t.TempDir(), "d")
		d, err := createDelta(path, delta{count: uint32(pages) + 1, from: page.Revision(from), to: page.Revision(to), whole: cut%2 == 0})
		if err != nil {
			t.Fatal(err)
		}
		images := make(map[page.No][]byte)
		for no := page.No(1); no <= page.No(pages); no++ {
			images[no] = bytes.Repeat([]byte{byte(no), byte(cut)}, page.Size/2)
			if err := d.add(no, images[no]); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.seal(); err != nil {
			t.Fatal(err)
		}
		d.close()
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b := bytes.Clone(whole)
		copy(b[int(at)%len(b):], edit)
		b = b[:len(b)-int(cut)%len(b)]
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := openDelta(path)
		if err != nil {
			t.Fatal(err)
		}
		if got == nil {
			if bytes.Equal(b, whole) {
				t.Error("a good file is not read")
			}
			return
		}
		defer got.close()
		if got.sealed != bytes.Equal(b, whole) {
			t.Errorf("sealed is %v of a file of %d bytes, which was %d before it was edited", got.sealed, len(b), len(whole))
		}
		if got.from != page.Revision(from) || got.to != page.Revision(to) || got.count != uint32(pages)+1 {
			t.Errorf("header is %q %q %d", got.from, got.to, got.count)
		}
		if err := got.each(func(no page.No, image []byte) error {
			if !bytes.Equal(image, images[no]) {
				t.Errorf("page %d is another", no)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}

// FuzzState: whatever turso_sync_state holds, it is read or refused; what is read is
// written so that it is read as the same.
func FuzzState(f *testing.F) {
	f.Add("client_id", "a", int64(1), uint8(1), `[1,2]`, `[{"client_id":"x","floor":3}]`)
	f.Add("base_pages", "", int64(1<<40), uint8(0), ``, ``)
	f.Add("watermark", "12", int64(-1), uint8(1), `{}`, `[null]`)
	f.Add("format", "", int64(2), uint8(0), `[`, `x`)
	f.Fuzz(func(t *testing.T, key, text string, number int64, kind uint8, intent, former string) {
		kept := map[string]driver.Value{"format": int64(stateFormat), "client_id": "c", "revision": "r", "intent": intent, "former": former}
		kept[key] = []driver.Value{number, text, []byte(text), nil, float64(number)}[kind%5]
		var s state
		if s.parse(kept) != nil {
			return
		}
		var again state
		if err := again.parse(s.fields()); err != nil {
			t.Fatalf("%+v: %v", s, err)
		}
		if len(s.intents) == 0 {
			s.intents = nil
		}
		if len(s.formers) == 0 {
			s.formers = nil
		}
		if !reflect.DeepEqual(again, s) {
			t.Errorf("%+v becomes %+v", s, again)
		}
	})
}
