package main

import (
	"log"
	"net/http"
	"time"

	donovanhide "github.com/donovanhide/eventsource"
	"github.com/launchdarkly/eventsource"
	r3labs "github.com/r3labs/sse/v2"
	tmaxmax "github.com/tmaxmax/go-sse"
	"gopkg.in/cenkalti/backoff.v1"
)

// delay is between two connections where a library does not heed the stream's
// retry.
const delay = 200 * time.Millisecond

// followR3labs comes back from errors by a strategy, which by default waits ever
// longer and does not begin anew after a success; at the clean end of a stream it
// returns.
func followR3labs(url string) error {
	client := r3labs.NewClient(url, r3labs.ClientMaxBufferSize(maxEvent))
	client.ReconnectStrategy = backoff.NewConstantBackOff(delay)
	for {
		if err := client.SubscribeRaw(func(e *r3labs.Event) { show(string(e.Event), string(e.ID), string(e.Data)) }); err != nil {
			return err
		}
		time.Sleep(delay) // as a user has it do
	}
}

func followTmaxmax(url string) error {
	req, err := http.NewRequest(http.MethodGet, url, nil) //nolint:gosec // where the test says
	if err != nil {
		return err
	}
	connection := tmaxmax.NewConnection(req)
	connection.Buffer(nil, maxEvent)
	connection.SubscribeToAll(func(e tmaxmax.Event) { show(e.Type, e.LastEventID, e.Data) })
	return connection.Connect()
}

func followLaunchDarkly(url string) error {
	stream, err := eventsource.SubscribeWithURL(url,
		eventsource.StreamOptionReadTimeout(45*time.Second),
		eventsource.StreamOptionErrorHandler(func(err error) eventsource.StreamErrorHandlerResult {
			log.Print(err)
			return eventsource.StreamErrorHandlerResult{}
		}))
	if err != nil {
		return err
	}
	for e := range stream.Events {
		show(e.Event(), e.Id(), e.Data())
	}
	return nil
}

func followDonovanhide(url string) error {
	stream, err := donovanhide.Subscribe(url, "")
	if err != nil {
		return err
	}
	for {
		select {
		case e := <-stream.Events:
			show(e.Event(), e.Id(), e.Data())
		case err := <-stream.Errors: // it waits until they are taken
			log.Print(err)
		}
	}
}
