package io.github.mimomobile.demo

import android.app.Notification
import android.app.NotificationChannel
import android.app.NotificationManager
import android.app.PendingIntent
import android.app.Service
import android.content.Context
import android.content.Intent
import android.content.pm.ServiceInfo
import android.graphics.drawable.Icon
import android.os.Build
import android.os.IBinder
import android.util.Log
import io.github.mimomobile.demo.chat.ChatActivity
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.cancel
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.conflate
import kotlinx.coroutines.flow.takeWhile
import kotlinx.coroutines.launch

/** Keeps the process alive while [MimoApp.work] goes on, and shows it. It owns nothing. */
class GenerationService : Service() {
    private val scope = CoroutineScope(Dispatchers.Main.immediate)
    private var watch: Job? = null

    override fun onBind(intent: Intent?): IBinder? = null

    override fun onStartCommand(intent: Intent?, flags: Int, startId: Int): Int {
        if (intent?.action == ACTION_STOP) app.stopWork()
        // Even when the work is over already: Android ends apps that start such a service and show nothing.
        show(app.work.value ?: Work(Work.Kind.ANSWER))
        watch?.cancel()
        watch = scope.launch {
            app.work.takeWhile { it != null }.conflate().collect {
                if (it != null) manager().notify(NOTIFICATION, notification(it))
                delay(UPDATE_MS)
            }
            stopForeground(STOP_FOREGROUND_REMOVE)
            stopSelf(startId)
        }
        return START_NOT_STICKY
    }

    override fun onDestroy() {
        scope.cancel()
        super.onDestroy()
    }

    private fun show(work: Work) {
        val channel = NotificationChannel(CHANNEL, getString(R.string.channel_work), NotificationManager.IMPORTANCE_LOW)
        manager().createNotificationChannel(channel)
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.UPSIDE_DOWN_CAKE) {
            startForeground(NOTIFICATION, notification(work), ServiceInfo.FOREGROUND_SERVICE_TYPE_SPECIAL_USE)
        } else {
            startForeground(NOTIFICATION, notification(work))
        }
    }

    private fun notification(work: Work): Notification {
        val open = Intent(this, ChatActivity::class.java)
            .addFlags(Intent.FLAG_ACTIVITY_SINGLE_TOP or Intent.FLAG_ACTIVITY_CLEAR_TOP)
        val stop = Intent(this, GenerationService::class.java).setAction(ACTION_STOP)
        val stopping = PendingIntent.getService(this, 1, stop, PendingIntent.FLAG_IMMUTABLE)
        val icon = Icon.createWithResource(this, R.drawable.ic_stop)
        val builder = Notification.Builder(this, CHANNEL)
            .setSmallIcon(R.drawable.ic_notification)
            .setColor(getColor(R.color.accent))
            .setContentTitle(getString(work.kind.title))
            .setContentIntent(PendingIntent.getActivity(this, 0, open, PendingIntent.FLAG_IMMUTABLE))
            .setOngoing(true)
            .setOnlyAlertOnce(true)
        if (work.kind.canStop) {
            builder.addAction(Notification.Action.Builder(icon, getString(R.string.stop), stopping).build())
        }
        val fraction = work.fraction
        if (fraction != null) {
            builder.setProgress(STEPS, (fraction * STEPS).toInt(), false)
        } else {
            builder.setProgress(0, 0, true)
        }
        if (work.tokens > 0) {
            builder.setContentText(resources.getQuantityString(R.plurals.tokens, work.tokens, work.tokens))
        }
        return builder.build()
    }

    private fun manager() = getSystemService(NotificationManager::class.java)

    companion object {
        private const val ACTION_STOP = "io.github.mimomobile.demo.STOP"
        private const val CHANNEL = "work"
        private const val NOTIFICATION = 1
        private const val STEPS = 1000
        private const val UPDATE_MS = 500L

        /** Android refuses this to an app in the background; then the work goes on as long as Android lets it. */
        fun start(context: Context) {
            try {
                context.startForegroundService(Intent(context, GenerationService::class.java))
            } catch (error: IllegalStateException) {
                Log.w("mimo", "no foreground service", error)
            }
        }
    }
}
