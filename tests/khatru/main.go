// A Blossom server that is not ours, for the tests that are marked blossom: khatru's, with its files and their index in
// memory. scripts/blossom builds it.
//
//	blossom [-most BYTES] [-types .png,.wav] [-keys HEX,HEX]
//
// First line on stdout: {"url"}. It takes files of at most so many bytes, of those types by their endings, and from
// those keys; without an option from anybody, of any type and size. It ends with its stdin.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/fiatjaf/eventstore/slicestore"
	"github.com/fiatjaf/khatru"
	"github.com/fiatjaf/khatru/blossom"
	"github.com/nbd-wtf/go-nostr"
)

func main() {
	most := flag.Int("most", 0, "bytes of a file; 0 is any")
	types := flag.String("types", "", "endings of files, separated by commas")
	keys := flag.String("keys", "", "who may upload, in hex, separated by commas")
	flag.Parse()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	url := "http://" + listener.Addr().String()
	index := &slicestore.SliceStore{}
	if err := index.Init(); err != nil {
		log.Fatal(err)
	}
	relay := khatru.NewRelay()
	server := blossom.New(relay, url)
	server.Store = blossom.EventStoreBlobIndexWrapper{Store: index, ServiceURL: url}

	var files sync.Map
	server.StoreBlob = append(server.StoreBlob, func(_ context.Context, sha256, _ string, body []byte) error {
		files.Store(sha256, body)
		return nil
	})
	server.LoadBlob = append(server.LoadBlob, func(_ context.Context, sha256, _ string) (io.ReadSeeker, error) {
		if body, ok := files.Load(sha256); ok {
			return bytes.NewReader(body.([]byte)), nil
		}
		return nil, nil
	})
	server.DeleteBlob = append(server.DeleteBlob, func(_ context.Context, sha256, _ string) error {
		files.Delete(sha256)
		return nil
	})
	server.RejectUpload = append(server.RejectUpload,
		func(_ context.Context, auth *nostr.Event, size int, ext string) (bool, string, int) {
			switch {
			case *keys != "" && !slices.Contains(strings.Split(*keys, ","), auth.PubKey):
				return true, "you are not on the list", http.StatusForbidden
			case *most > 0 && size > *most:
				return true, "too large", http.StatusRequestEntityTooLarge
			case *types != "" && !slices.Contains(strings.Split(*types, ","), ext):
				return true, "not this type: " + ext, http.StatusUnsupportedMediaType
			}
			return false, "", 0
		})

	if err := json.NewEncoder(os.Stdout).Encode(map[string]string{"url": url}); err != nil {
		log.Fatal(err)
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	log.Fatal(http.Serve(listener, relay))
}
