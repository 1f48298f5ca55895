package wire

import (
	"errors"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// StreamKind says what follows the header of an answer.
type StreamKind uint64

// Kinds of streams. Only pages are spoken by this module.
const (
	StreamPages StreamKind = 0
	StreamMVCC  StreamKind = 1
)

// ApplyMode says what becomes of the pages that the client has.
type ApplyMode uint64

// The two ways to apply an answer.
const (
	Incremental ApplyMode = 0
	ReplaceBase ApplyMode = 1
)

// Protocol is the kind of the database behind an answer.
type Protocol uint64

// Kinds of databases; servers before 0.8 do not tell.
const (
	ProtocolUnspecified Protocol = 0
	ProtocolPages       Protocol = 1
	ProtocolMVCC        Protocol = 2
)

// Encoding is how pages are asked for.
type Encoding uint64

// Encodings of pages; zstd is known by name only (PROTOCOL.md §2.10).
const (
	EncodingRaw  Encoding = 0
	EncodingZstd Encoding = 1
)

// PullRequest asks for pages. Fields:
//
//	1 encoding enum · 2 server_revision string · 3 client_revision string
//	4 long_poll_timeout_ms uint32 · 5 server_pages_selector bytes
//	6 client_pages bytes · 7 server_query_selector string · 8 stream_kind enum
//
// Defaults are not sent: the zero value is a body of 0 bytes.
type PullRequest struct {
	Encoding       Encoding
	ServerRevision string
	ClientRevision string
	LongPollMillis uint32
	Selector       []byte // portable roaring bitmap of page ids; empty: all pages
	ClientPages    []byte // reserved
	QuerySelector  string
	Stream         StreamKind
}

// Append appends the encoded request.
func (r *PullRequest) Append(b []byte) []byte {
	b = appendUint(b, 1, uint64(r.Encoding))
	b = appendString(b, 2, r.ServerRevision)
	b = appendString(b, 3, r.ClientRevision)
	b = appendUint(b, 4, uint64(r.LongPollMillis))
	b = appendString(b, 5, string(r.Selector))
	b = appendString(b, 6, string(r.ClientPages))
	b = appendString(b, 7, r.QuerySelector)
	return appendUint(b, 8, uint64(r.Stream))
}

// ParsePullRequest decodes a request. The result shares no memory with b.
func ParsePullRequest(b []byte) (PullRequest, error) {
	var r PullRequest
	err := eachField(b, func(f field) (err error) {
		switch f.num {
		case 1:
			r.Encoding, err = enum[Encoding](f)
		case 2:
			r.ServerRevision, err = f.text()
		case 3:
			r.ClientRevision, err = f.text()
		case 4:
			var v uint64
			v, err = f.uint()
			// proto3: a uint32 keeps the low half of a longer varint.
			r.LongPollMillis = uint32(v)
		case 5:
			r.Selector, err = f.copied()
		case 6:
			r.ClientPages, err = f.copied()
		case 7:
			r.QuerySelector, err = f.text()
		case 8:
			r.Stream, err = enum[StreamKind](f)
		}
		return err
	})
	if err != nil {
		return PullRequest{}, fmt.Errorf("decode pull request: %w", err)
	}
	return r, nil
}

// Zstd describes zstd-encoded pages.
type Zstd struct {
	Level     int32
	PagesDict []uint32
}

// PullHeader opens an answer. Fields:
//
//	1 server_revision string · 2 db_size uint64, in pages · 3 raw_encoding {}
//	4 zstd_encoding {1 level int32, 2 pages_dict repeated uint32}
//	5 stream_kind enum · 6 apply_mode enum · 7 mvcc_log {} · 8 protocol enum
type PullHeader struct {
	Revision  string
	PageCount uint64
	Raw       bool  // pages are raw
	Zstd      *Zstd // pages are zstd
	Stream    StreamKind
	Mode      ApplyMode
	MVCCLog   bool // a description of an MVCC log was there
	Protocol  Protocol
}

// Append appends the encoded header, without the length in front. A description
// of an MVCC log is not written: nothing here could follow it.
func (h *PullHeader) Append(b []byte) []byte {
	b = appendString(b, 1, h.Revision)
	b = appendUint(b, 2, h.PageCount)
	if h.Raw {
		b = appendMessage(b, 3, nil)
	}
	if h.Zstd != nil {
		var m, dict []byte
		m = appendUint(m, 1, uint64(int64(h.Zstd.Level)))
		for _, id := range h.Zstd.PagesDict {
			dict = protowire.AppendVarint(dict, uint64(id))
		}
		if dict != nil {
			m = appendMessage(m, 2, dict)
		}
		b = appendMessage(b, 4, m)
	}
	b = appendUint(b, 5, uint64(h.Stream))
	b = appendUint(b, 6, uint64(h.Mode))
	return appendUint(b, 8, uint64(h.Protocol))
}

// ParsePullHeader decodes a header. The result shares no memory with b.
func ParsePullHeader(b []byte) (PullHeader, error) {
	var h PullHeader
	err := eachField(b, func(f field) (err error) {
		switch f.num {
		case 1:
			h.Revision, err = f.text()
		case 2:
			h.PageCount, err = f.uint()
		case 3:
			_, err = f.bytes()
			h.Raw = true
		case 4:
			h.Zstd, err = parseZstd(f, h.Zstd)
		case 5:
			h.Stream, err = enum[StreamKind](f)
		case 6:
			h.Mode, err = enum[ApplyMode](f)
		case 7:
			_, err = f.bytes()
			h.MVCCLog = true
		case 8:
			h.Protocol, err = enum[Protocol](f)
		}
		return err
	})
	if err != nil {
		return PullHeader{}, fmt.Errorf("decode pull header: %w", err)
	}
	return h, nil
}

// parseZstd decodes field 4 into z, which is not nil when the field came before:
// proto3 merges repeated occurrences of a message.
func parseZstd(f field, z *Zstd) (*Zstd, error) {
	b, err := f.bytes()
	if err != nil {
		return nil, err
	}
	if z == nil {
		z = &Zstd{}
	}
	return z, eachField(b, func(f field) error {
		switch f.num {
		case 1:
			v, err := f.uint()
			z.Level = int32(v)
			return err
		case 2:
			if f.typ == protowire.VarintType {
				z.PagesDict = append(z.PagesDict, uint32(f.varint))
				return nil
			}
			packed, err := f.bytes()
			for err == nil && len(packed) > 0 {
				v, n := protowire.ConsumeVarint(packed)
				if n < 0 {
					return protowire.ParseError(n)
				}
				z.PagesDict, packed = append(z.PagesDict, uint32(v)), packed[n:]
			}
			return err
		}
		return nil
	})
}

// PageData is one page of an answer: 1 page_id uint64 from zero, 2 encoded_page
// bytes.
type PageData struct {
	ID    uint64
	Image []byte
}

// Append appends the encoded page, without the length in front.
func (p *PageData) Append(b []byte) []byte {
	b = appendUint(b, 1, p.ID)
	return appendMessage(b, 2, p.Image)
}

// AppendPageFrame appends the encoded page with the length in front, in one go.
func AppendPageFrame(b []byte, id uint64, image []byte) []byte {
	n := protowire.SizeTag(2) + protowire.SizeBytes(len(image))
	if id != 0 {
		n += protowire.SizeTag(1) + protowire.SizeVarint(id)
	}
	b = protowire.AppendVarint(b, uint64(n))
	p := PageData{ID: id, Image: image}
	return p.Append(b)
}

// ParsePageData decodes a page. Image is part of b.
func ParsePageData(b []byte) (PageData, error) {
	var p PageData
	err := eachField(b, func(f field) (err error) {
		switch f.num {
		case 1:
			p.ID, err = f.uint()
		case 2:
			p.Image, err = f.bytes()
		}
		return err
	})
	if err != nil {
		return PageData{}, fmt.Errorf("decode page: %w", err)
	}
	return p, nil
}

// field is one field of a protobuf message.
type field struct {
	num    protowire.Number
	typ    protowire.Type
	varint uint64
	data   []byte // part of the message
}

var errFieldType = errors.New("field has an unexpected wire type")

func (f field) uint() (uint64, error) {
	if f.typ != protowire.VarintType {
		return 0, fmt.Errorf("field %d: %w", f.num, errFieldType)
	}
	return f.varint, nil
}

func (f field) bytes() ([]byte, error) {
	if f.typ != protowire.BytesType {
		return nil, fmt.Errorf("field %d: %w", f.num, errFieldType)
	}
	return f.data, nil
}

func (f field) text() (string, error) {
	b, err := f.bytes()
	return string(b), err
}

func (f field) copied() ([]byte, error) {
	b, err := f.bytes()
	return append([]byte(nil), b...), err
}

// enum decodes an enumeration. Unknown values stay visible: they are errors for
// some fields and not for others.
func enum[E ~uint64](f field) (E, error) {
	v, err := f.uint()
	if v > math.MaxInt32 {
		// Enumerations are int32 on the wire; anything beyond is unknown as well.
		v = math.MaxInt32
	}
	return E(v), err
}

// eachField calls do for every field of a message of the two wire types in use
// and skips the others.
func eachField(b []byte, do func(field) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		f := field{num: num, typ: typ}
		switch typ {
		case protowire.VarintType:
			f.varint, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			f.data, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if err := do(f); err != nil {
			return err
		}
	}
	return nil
}

func appendUint(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	b = protowire.AppendTag(b, num, protowire.VarintType)
	return protowire.AppendVarint(b, v)
}

func appendString(b []byte, num protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	b = protowire.AppendTag(b, num, protowire.BytesType)
	return protowire.AppendString(b, s)
}

// appendMessage appends the field even when it is empty: presence has a meaning.
func appendMessage(b []byte, num protowire.Number, m []byte) []byte {
	b = protowire.AppendTag(b, num, protowire.BytesType)
	return protowire.AppendBytes(b, m)
}
