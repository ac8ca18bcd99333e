<?php
// A webhook receiver in PHP 8.1 or newer. Run: WEBHOOK_SECRET=… php -S 127.0.0.1:8001 receiver.php
const TOLERANCE_SECONDS = 300;

// Return true if the body was signed with the secret within the last five minutes.
function is_authentic(string $body, string $header, string $secret): bool
{
    $timestamp = '';
    $signatures = [];
    foreach (explode(',', $header) as $entry) {
        [$name, $value] = explode('=', trim($entry), 2) + ['', ''];
        if ($name === 't') {
            $timestamp = $value;
        } else {
            $signatures[] = $value;
        }
    }
    if (!ctype_digit($timestamp) || abs(time() - (int) $timestamp) > TOLERANCE_SECONDS) {
        return false;
    }
    $expected = hash_hmac('sha256', "$timestamp.$body", $secret);
    // During a rotation there are two signatures: one of them is made with your secret.
    foreach ($signatures as $signature) {
        if (hash_equals($expected, $signature)) {
            return true;
        }
    }
    return false;
}

// The signature covers the bytes as they came: verify them before you parse them.
$body = file_get_contents('php://input');
if (!is_authentic($body, $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? '', getenv('WEBHOOK_SECRET'))) {
    http_response_code(401);
    exit('the signature is not right');
}
// A webhook may come again: look for $_SERVER['HTTP_WEBHOOK_ID'] in your database before you process it.
error_log('received ' . json_decode($body, true)['event']);
echo 'received';
