package io.github.mimomobile.demo.bench

import android.content.Intent

/**
 * What is to be measured.
 *
 * @property model Name of the model, or of its folder; null takes the one that is loaded.
 * @property result Name of the file with the record; null makes one of the phone, the model and the time.
 * @property seconds How long a soak takes.
 * @property mode Name of the [Mode] in which the model is loaded for it; null leaves that to the settings.
 */
data class BenchmarkRequest(
    val kind: Kind = Kind.SPEED,
    val model: String? = null,
    val result: String? = null,
    val seconds: Int = SOAK_S,
    val mode: String? = null,
) {
    enum class Kind(val extra: String) {
        /** The rounds of `make bench-phone`. */
        SPEED("benchmark"),

        /** Computes without a pause, to see what heat does to the speed. */
        SOAK("soak"),

        /** All recipes of the model in turn, and so both engines. */
        COMPARE("compare"),

        /** Verifies every byte of the model and asks it one question. */
        SELF_TEST("selftest"),
    }

    companion object {
        const val SOAK_S = 600
        private val NAME = Regex("[A-Za-z0-9_.-]{1,100}")

        /** What `adb shell am start … --ez benchmark true` asks for; null when an intent asks for nothing. */
        fun of(intent: Intent): BenchmarkRequest? {
            val kind = Kind.entries.firstOrNull { intent.getBooleanExtra(it.extra, false) } ?: return null
            return BenchmarkRequest(
                kind = kind,
                model = intent.getStringExtra("model"),
                result = intent.getStringExtra("result")?.takeIf { NAME.matches(it) && it.any(Char::isLetterOrDigit) },
                seconds = intent.getIntExtra("seconds", SOAK_S).coerceIn(1, MOST_S),
                mode = intent.getStringExtra("mode"),
            )
        }

        private const val MOST_S = 24 * 3600
    }
}
