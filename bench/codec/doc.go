// Package codec compares the decoder with other libraries. Like everything in
// this module, it keeps them out of the plugin's dependencies.
//
//	go test -run '^$' -bench . -cpu 1 -count 10 ./codec | tee codec.txt
//	benchstat -col /impl -row /shape codec.txt
package codec
