package io.github.mimomobile.demo.bench

import android.content.Context
import io.github.mimomobile.demo.Settings
import io.github.mimomobile.demo.models.Mode
import java.io.File
import java.io.IOException
import org.json.JSONArray
import org.json.JSONException
import org.json.JSONObject

/** Where records are written, so that adb can read them. */
fun recordsFolder(context: Context): File = context.getExternalFilesDir("benchmarks") ?: File(context.filesDir, "benchmarks")

/**
 * What changes how fast a recipe is, beside the phone.
 *
 * @property computes The execution provider that was asked for, or the mode.
 * @property threads Null leaves them to the engine.
 * @property app The app's version, and with it the engines'.
 */
data class Conditions(val computes: String, val threads: Int?, val int8Kv: Boolean, val app: String) {
    fun toJson(): JSONObject = JSONObject()
        .put("computes", computes).put("threads", orNull(threads)).put("int8_kv", int8Kv).put("app", app)

    companion object {
        fun of(context: Context, settings: Settings, mode: Mode? = null) = Conditions(
            if (mode == null || mode == Mode.CPU && settings.provider.name == "CPU") settings.provider.name else mode.label,
            settings.threads,
            settings.int8Kv,
            context.packageManager.getPackageInfo(context.packageName, 0).versionName.orEmpty(),
        )

        /** As a record has them; null when it is of a version that did not tell. */
        fun read(record: JSONObject): Conditions? = record.optJSONObject("settings")?.optJSONObject("asked")?.run {
            Conditions(getString("computes"), if (isNull("threads")) null else getInt("threads"), getBoolean("int8_kv"), getString("app"))
        }
    }
}

/** Tokens a second; [isSame] tells whether they were measured under the conditions that were asked for. */
data class MeasuredSpeed(val decodeTps: Double, val isSame: Boolean)

/** Tokens a second of recipes on this phone, with nothing in the KV cache before: of the newest records. */
class Speeds private constructor(private val measured: List<Speed>) {
    constructor() : this(emptyList())

    private data class Speed(val model: String, val recipe: String, val decodeTps: Double, val conditions: Conditions?)

    /**
     * How fast a recipe of the model was the last time under these conditions, or else the last time under any others;
     * null when it was not measured.
     */
    fun of(model: String, recipe: String, now: Conditions): MeasuredSpeed? {
        val all = measured.filter { it.model == model && it.recipe == recipe }
        val same = all.lastOrNull { it.conditions == now }
        return (same ?: all.lastOrNull())?.let { MeasuredSpeed(it.decodeTps, it === same) }
    }

    override fun equals(other: Any?) = other is Speeds && other.measured == measured

    override fun hashCode() = measured.hashCode()

    companion object {
        /** Records may be of other versions, or anything else that adb pushed: what is none tells nothing. */
        fun read(folder: File): Speeds {
            val files = folder.listFiles().orEmpty().filter { it.name.endsWith(".json") }.sortedBy { it.lastModified() }
            return Speeds(files.flatMap(::speeds))
        }

        private fun speeds(file: File): List<Speed> = try {
            val record = JSONObject(file.readText())
            val model = record.getJSONObject("model")
            val name = model.getString("name")
            val conditions = Conditions.read(record)
            val compared = record.optJSONArray("compared")
            if (compared != null) compared.objects().mapNotNull { each ->
                val tps = each.optJSONObject("medians")?.optDouble("decode_tps")?.takeIf { it.isFinite() } ?: return@mapNotNull null
                Speed(name, each.getString("recipe"), tps, conditions)
            } else {
                val run = record.getJSONArray("runs").objects().first { it.getInt("depth") == 0 }
                val speed = run.getJSONArray("speeds").getJSONObject(0).getDouble("decode_tps")
                listOf(Speed(name, model.getString("recipe"), speed, conditions))
            }
        } catch (_: IOException) {
            emptyList()
        } catch (_: JSONException) {
            emptyList()
        } catch (_: NoSuchElementException) {
            emptyList()
        }

        private fun JSONArray.objects() = (0 until length()).map(::getJSONObject)
    }
}
